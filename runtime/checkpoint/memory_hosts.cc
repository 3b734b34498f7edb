#include "runtime/checkpoint/memory_hosts.h"

#include <algorithm>

namespace muster::runtime {

HostMap MapHosts(const std::vector<std::string>& name_by_rank) {
  HostMap map;
  for (size_t rank = 0; rank < name_by_rank.size(); ++rank) {
    const auto found = std::find(map.names.begin(), map.names.end(), name_by_rank[rank]);
    const auto host = static_cast<size_t>(found - map.names.begin());
    if (found == map.names.end()) {
      map.names.push_back(name_by_rank[rank]);
      map.ranks.emplace_back();
    }
    map.host_of.push_back(static_cast<int>(host));
    map.ranks[host].push_back(static_cast<int>(rank));
  }
  return map;
}

std::vector<int> KeepersOf(const HostMap& hosts) {
  std::vector<int> keepers(hosts.host_of.size(), -1);
  if (hosts.num_hosts() < 2) return keepers;
  for (size_t host = 0; host < hosts.ranks.size(); ++host) {
    const std::vector<int>& next = hosts.ranks[(host + 1) % hosts.ranks.size()];
    for (size_t i = 0; i < hosts.ranks[host].size(); ++i) {
      keepers[static_cast<size_t>(hosts.ranks[host][i])] = next[i % next.size()];
    }
  }
  return keepers;
}

std::vector<int> WardsOf(const std::vector<int>& keepers, int rank) {
  std::vector<int> wards;
  for (size_t other = 0; other < keepers.size(); ++other) {
    if (keepers[other] == rank) wards.push_back(static_cast<int>(other));
  }
  return wards;
}

}  // namespace muster::runtime
