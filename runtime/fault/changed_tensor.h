#pragma once
// Which of a rank's tensors a planned fault changes (nan, flip_gradient, flip_activation, flip),
// and the change, of its first element.
#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "parallel/mesh/parameter.h"
#include "parallel/optim/sharded_adamw.h"
#include "runtime/job/fault_plan.h"

namespace muster::runtime {

// All outlive their users.
struct RankTensors {
  const parallel::ParameterList* parameters = nullptr;
  const parallel::ShardedAdamW* optimizer = nullptr;
  const kernels::ArenaPlan* memory = nullptr;
};

// Whether the rank has anything that the fault could change.
bool HasTarget(const RankTensors& tensors, const PlannedFault& plan);
// The parameter that a fault of a gradient or a whole weight means; -1: none of this rank.
parallel::ParameterId TargetParameter(const RankTensors& tensors, const PlannedFault& plan);
// Changes it, in stream order, and waits. Errors: it is not there just now, as a gradient or weight
// that is held as shards; the stream's.
absl::Status ChangeTarget(const RankTensors& tensors, const PlannedFault& plan,
                          kernels::StreamView compute);

}  // namespace muster::runtime
