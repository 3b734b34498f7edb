#pragma once
// Who keeps whose copies in the memory tier. Pure.
#include <string>
#include <vector>

namespace muster::runtime {

// The ranks of a world, by host.
struct HostMap {
  std::vector<std::string> names;       // in the order of their first ranks
  std::vector<int> host_of;             // by rank: an index into names
  std::vector<std::vector<int>> ranks;  // by host, ascending
  int num_hosts() const { return static_cast<int>(names.size()); }
  // The lowest rank of a host does what is to be done once there.
  int leader(int host) const { return ranks[static_cast<size_t>(host)].front(); }
};
HostMap MapHosts(const std::vector<std::string>& name_by_rank);

// By rank: the rank that keeps a second copy of its snapshots, on the next host round. Hosts share
// the work: none of a host's ranks keeps two copies more than another. On one host there are none,
// -1: a copy there would be lost with the first.
std::vector<int> KeepersOf(const HostMap& hosts);

// Those whose copies `rank` keeps, ascending.
std::vector<int> WardsOf(const std::vector<int>& keepers, int rank);

}  // namespace muster::runtime
