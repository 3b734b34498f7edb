#pragma once
// The matrix products that a rank of a job will be asked for, worked out offline by the code that
// asks for them: the rank's passes are gone through on a dry stream, over a memory plan that is
// bound to addresses where nothing is.
#include <set>

#include "absl/status/statusor.h"
#include "kernels/ops/matmul_key.h"
#include "runtime/job/config.h"

namespace muster::runtime {

// Of world rank `rank`, in steps and evaluations. Needs no other rank and no GPU; takes some
// milliseconds. Errors: as TrainingState::Plan.
absl::StatusOr<std::set<kernels::MatmulKey>> PlanMatmuls(const ResolvedJob& job, int rank);

}  // namespace muster::runtime
