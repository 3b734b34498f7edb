#pragma once
// How far the ranks' monotonic clocks are apart, from a few rounds in which all meet.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/goodput/clock.h"

namespace muster::runtime {

// Names the kernel whose clock this process reads: by its boot, else by its host.
std::string KernelOf(const parallel::World& world);

struct RankClock {
  std::string kernel;
  std::vector<ClockRound> rounds;
};

// Collective. Of each rank, by rank.
absl::StatusOr<std::vector<RankClock>> MeetClocks(const std::string& kernel,
                                                  parallel::World& world);
// From the clock of `rank` to rank 0's: zero, exactly, on rank 0's kernel; equal for all ranks of
// one kernel.
ClockOffset OffsetToRank0(const std::vector<RankClock>& all, int rank);

// Collective. The same of this rank, without rounds if all ranks are on one kernel.
absl::StatusOr<ClockOffset> ExchangeClocks(const std::string& kernel, parallel::World& world);

}  // namespace muster::runtime
