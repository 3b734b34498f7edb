// What the detector knows of hosts: which ranks share one, and when one is lost.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/fault/detector.h"

namespace muster::runtime {
namespace {

constexpr int64_t kMissedBeatsNs = 2'000'000'000;  // of all ranks of a host

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

// Hosts whose ranks, as far as they have spoken and not left, all miss their beats, if a rank of
// one of them has for so long: ranks do not beat at the same instant, nor do hosts that are lost
// together.
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
    int64_t first = now_ns, last = 0;
    std::vector<int> there;
    for (const int r : ranks) {
      if (!At(r).spoke || At(r).left) continue;
      there.push_back(r);
      first = std::min(first, At(r).heard_ns);
      last = std::max(last, At(r).heard_ns);
    }
    if (there.empty() || now_ns - last <= std::min(longer_than_ns / 2, kMissedBeatsNs)) continue;
    names.push_back(name);
    lost.insert(lost.end(), there.begin(), there.end());
    heard = std::min(heard, first);
  }
  if (now_ns - heard <= longer_than_ns) return std::nullopt;
  std::sort(lost.begin(), lost.end());
  Failure failure =
      Make(FailureKind::kHostLost, lost, heard, now_ns,
           absl::StrCat(names.size() == 1 ? "host " : "hosts ", absl::StrJoin(names, ", "),
                        names.size() == 1 ? " is" : " are", " silent: ", SaidByAll(lost, now_ns)));
  failure.hosts = std::move(names);
  return failure;
}

void Detector::JudgeHostOfCrash(int64_t now_ns) {
  if (!failure_ || failure_->kind != FailureKind::kCrash || failure_->hosts.size() != 1) return;
  const std::map<std::string, std::vector<int>> hosts = RanksByHost();
  const std::string host = failure_->hosts[0];
  const std::vector<int>& ranks = hosts.at(host);
  const auto is_closed = [this](int r) { return At(r).lost_ns != 0; };
  const bool another_stays = std::any_of(hosts.begin(), hosts.end(), [&](const auto& other) {
    return std::none_of(other.second.begin(), other.second.end(), is_closed);
  });
  if (ranks.size() < 2 || !another_stays || !std::all_of(ranks.begin(), ranks.end(), is_closed)) {
    return;
  }
  Failure lost =
      Make(FailureKind::kHostLost, ranks, failure_->happened_ns, now_ns,
           absl::StrCat("host ", host,
                        " closed all its connections at once: ", SaidByAll(ranks, now_ns)));
  lost.exit_code = failure_->exit_code;
  failure_ = std::move(lost);
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
