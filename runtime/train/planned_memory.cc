#include "runtime/train/planned_memory.h"

#include "kernels/base/error.h"
#include "parallel/comm/planned_world.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

absl::StatusOr<PlannedMemory> PlanMemory(const ResolvedJob& job, int rank) {
  const auto world = parallel::MakePlannedWorld(rank, job.mesh.world_size());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<TrainingState> state,
      TrainingState::Plan(job, *world, kernels::Device(), kernels::StreamMode::kInline));
  using kernels::Lifetime;
  return PlannedMemory{.held_bytes = state->plan.bytes(Lifetime::kPersistent),
                       .activation_bytes = state->plan.bytes(Lifetime::kActivation),
                       .scratch_bytes = state->plan.bytes(Lifetime::kScratch)};
}

}  // namespace muster::runtime
