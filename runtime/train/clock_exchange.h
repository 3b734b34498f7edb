#pragma once
// How far this rank's monotonic clock is from rank 0's, with a bound: from a few exchanges at
// start.
#include <string>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/goodput/clock.h"

namespace muster::runtime {

// Names the kernel whose clock this process reads: by its boot, else by its host.
std::string KernelOf(const parallel::World& world);

// Collective. Zero, exactly, for ranks on rank 0's kernel; if all are, one exchange is made.
absl::StatusOr<ClockOffset> ExchangeClocks(const std::string& kernel, parallel::World& world);

}  // namespace muster::runtime
