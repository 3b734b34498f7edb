// What the detector knows of hosts: which ranks share one, and when one is lost.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/fault/detector.h"

namespace muster::runtime {
namespace {

// Connections of one host that close within it close together. A starter that ends the other ranks
// of a crash gives them a second.
constexpr int64_t kTogetherNs = 500'000'000;

}  // namespace

// To blame are hosts of which no rank has spoken, if ranks of other hosts have.
Failure Detector::NeverSpoke(const std::vector<int>& missing, int64_t now_ns) const {
  Failure failure =
      Make(FailureKind::kLaunch, missing, start_ns_, now_ns,
           absl::StrFormat("%d of %d ranks have not spoken %.0f s after the start", missing.size(),
                           ranks_.size(), options_.deadlines.start_seconds));
  failure.hosts.clear();
  if (options_.host_of_rank.empty() || missing.size() == ranks_.size()) return failure;
  for (const auto& [host, ranks] : RanksByHost()) {
    if (std::all_of(ranks.begin(), ranks.end(), [this](int r) { return !At(r).spoke; })) {
      failure.hosts.push_back(host);
    }
  }
  return failure;
}

// Hosts whose ranks, as far as they have spoken and not left, are all silent.
std::optional<Failure> Detector::SilentHosts(int64_t longer_than_ns, int64_t now_ns) const {
  const std::map<std::string, std::vector<int>> hosts = RanksByHost();
  const auto is_here = [this](const Rank& rank) {
    return options_.process_space == 0 || rank.last.process_space == options_.process_space;
  };
  // On this host alone all ranks may hang, but it is there.
  if (hosts.size() < 2 && std::any_of(ranks_.begin(), ranks_.end(), is_here)) return std::nullopt;
  std::vector<std::string> names;
  std::vector<int> lost;
  int64_t heard = now_ns;
  for (const auto& [name, ranks] : hosts) {
    int64_t last = 0;
    std::vector<int> there;
    for (const int r : ranks) {
      if (!At(r).spoke || At(r).left) continue;
      there.push_back(r);
      last = std::max(last, At(r).heard_ns);
    }
    if (there.empty() || now_ns - last <= longer_than_ns) continue;
    names.push_back(name);
    lost.insert(lost.end(), there.begin(), there.end());
    heard = std::min(heard, last);
  }
  if (names.empty()) return std::nullopt;
  std::sort(lost.begin(), lost.end());
  Failure failure =
      Make(FailureKind::kHostLost, lost, heard, now_ns,
           absl::StrCat(names.size() == 1 ? "host " : "hosts ", absl::StrJoin(names, ", "),
                        names.size() == 1 ? " is" : " are", " silent: ", SaidByAll(lost, now_ns)));
  failure.hosts = std::move(names);
  return failure;
}

// The connections of a rank's host, if it is one of several and has several ranks, and all of them
// have closed together without a goodbye: the host went down, or whoever started its ranks.
std::optional<Failure> Detector::ClosedHost(int rank, int64_t now_ns) const {
  const std::map<std::string, std::vector<int>> hosts = RanksByHost();
  const std::vector<int>& ranks = hosts.at(HostOf(rank));
  if (hosts.size() < 2 || ranks.size() < 2) return std::nullopt;
  int64_t first = now_ns;
  for (const int r : ranks) {
    if (At(r).lost_ns == 0) return std::nullopt;
    first = std::min(first, At(r).lost_ns);
  }
  if (now_ns - first > kTogetherNs) return std::nullopt;
  Failure failure =
      Make(FailureKind::kHostLost, ranks, failure_->happened_ns, now_ns,
           absl::StrCat("host ", HostOf(rank),
                        " closed all its connections at once: ", SaidByAll(ranks, now_ns)));
  failure.exit_code = failure_->exit_code;
  return failure;
}

const std::string& Detector::HostOf(int rank) const {
  return options_.host_of_rank.empty() ? At(rank).last.host
                                       : options_.host_of_rank[static_cast<size_t>(rank)];
}

// Of ranks whose host is known: placed there, or heard of.
std::map<std::string, std::vector<int>> Detector::RanksByHost() const {
  std::map<std::string, std::vector<int>> hosts;
  for (int r = 0; r < static_cast<int>(ranks_.size()); ++r) {
    if (!options_.host_of_rank.empty() || At(r).spoke) hosts[HostOf(r)].push_back(r);
  }
  return hosts;
}

std::vector<std::string> Detector::HostOf(const std::vector<int>& ranks) const {
  std::vector<std::string> hosts;
  for (const int rank : ranks) {
    if (options_.host_of_rank.empty() && !At(rank).spoke) return {};
    if (hosts.empty()) hosts.push_back(HostOf(rank));
    if (hosts[0] != HostOf(rank)) return {};
  }
  return hosts;
}

}  // namespace muster::runtime
