#pragma once
// The World of a job that MPI started: MPI_COMM_WORLD, duplicated so that our messages meet nobody
// else's. Callers use parallel/comm/rendezvous.h.
#include <memory>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"

namespace muster::parallel {

absl::StatusOr<std::unique_ptr<World>> MakeMpiWorld(const WorldOptions& options);

}  // namespace muster::parallel
