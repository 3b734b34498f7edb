#include "runtime/train/clock_exchange.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

constexpr int kRounds = 8;  // the quickest of them bounds the offset

}  // namespace

std::string KernelOf(const parallel::World& world) {
  const uint64_t boot = BootId();
  return boot != 0 ? absl::StrCat(boot) : world.host();
}

absl::StatusOr<std::vector<RankClock>> MeetClocks(const std::string& kernel,
                                                  parallel::World& world) {
  std::vector<ClockRound> mine(kRounds);
  for (ClockRound& round : mine) {
    round.before_ns = kernels::MonotonicNs();
    RETURN_IF_ERROR(world.GatherText("").status());
    round.after_ns = kernels::MonotonicNs();
  }
  constexpr size_t kBytes = kRounds * sizeof(ClockRound);
  const std::string packed(reinterpret_cast<const char*>(mine.data()), kBytes);
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, world.GatherText(packed + kernel));
  std::vector<RankClock> all;
  for (const std::string& text : texts) {
    MUSTER_CHECK(text.size() >= kBytes);
    std::vector<ClockRound> rounds(kRounds);
    std::memcpy(rounds.data(), text.data(), kBytes);
    all.push_back({text.substr(kBytes), std::move(rounds)});
  }
  return all;
}

ClockOffset OffsetToRank0(const std::vector<RankClock>& all, int rank) {
  const std::string& kernel = all[static_cast<size_t>(rank)].kernel;
  if (kernel == all[0].kernel) return {};
  const auto first = std::find_if(all.begin(), all.end(),
                                  [&](const RankClock& each) { return each.kernel == kernel; });
  return OffsetBetween(first->rounds, all[0].rounds);
}

absl::StatusOr<ClockOffset> ExchangeClocks(const std::string& kernel, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> kernels, world.GatherText(kernel));
  const bool one = std::all_of(kernels.begin(), kernels.end(),
                               [&](const std::string& each) { return each == kernels.front(); });
  if (one) return ClockOffset{};
  ASSIGN_OR_RETURN(const std::vector<RankClock> all, MeetClocks(kernel, world));
  return OffsetToRank0(all, world.rank());
}

}  // namespace muster::runtime
