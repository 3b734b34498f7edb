#pragma once
// The limit that a job's steps are measured against, equal on all ranks.
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/job/config.h"
#include "runtime/job/peak.h"

namespace muster::runtime {

// goodput.peak of rank 0. A measured CPU peak is that of one core; ranks that share the cores of a
// host (more ranks than cores) get their share of it. Collective over the world.
absl::StatusOr<Peak> AgreedPeak(const ResolvedJob& job, parallel::World& world);

}  // namespace muster::runtime
