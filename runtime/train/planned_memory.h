#pragma once
// What a rank of a job will allocate, worked out offline by the code that plans it when the job
// runs, so that the two numbers are one number. Not counted: what libraries take (MPI, NCCL,
// cuDNN), host copies of a step's facts, and a save's buffers.
#include <cstdint>

#include "absl/status/statusor.h"
#include "runtime/job/config.h"

namespace muster::runtime {

struct PlannedMemory {
  int64_t held_bytes = 0;        // weights, gradients, optimizer state, messages, the batch
  int64_t activation_bytes = 0;  // of all microbatches that are alive at once: the step's peak
  int64_t scratch_bytes = 0;     // the most that any pass takes beside them
  int64_t total_bytes() const { return held_bytes + activation_bytes + scratch_bytes; }
};

// Of world rank `rank`. Needs no other rank and no GPU. Errors: as TrainingState::Plan.
absl::StatusOr<PlannedMemory> PlanMemory(const ResolvedJob& job, int rank);

}  // namespace muster::runtime
