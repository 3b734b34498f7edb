#include "runtime/train/planned_matmuls.h"

#include "kernels/base/error.h"
#include "kernels/ops/matmul_notes.h"
#include "parallel/comm/planned_world.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {
namespace {

absl::Status GoThrough(const parallel::Program& program, const kernels::TensorView& message,
                       TrainingState& state) {
  for (const parallel::ProgramStep& step : program) {
    if (parallel::IsWeightGradient(step.action)) {
      state.reducer->SetLastMicrobatch(step.last_contribution);
    }
    RETURN_IF_ERROR(parallel::RunAction(step.action, step.input ? message : kernels::TensorView(),
                                        step.output ? message : kernels::TensorView(), *state.model,
                                        state.compute()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::set<kernels::MatmulKey>> PlanMatmuls(const ResolvedJob& job, int rank) {
  const auto world = parallel::MakePlannedWorld(rank, job.mesh.world_size());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<TrainingState> state,
      TrainingState::Plan(job, *world, kernels::Device(), kernels::StreamMode::kInline));
  kernels::MatmulNotes notes;
  notes.Attach(state->compute(), /*dry=*/true);
  notes.Attach(state->comm(), /*dry=*/true);
  if (job.mesh.cp > 1) notes.Attach(state->mesh->context_stream().view(), /*dry=*/true);
  // No address that is used, but aligned like one.
  void* const nowhere = reinterpret_cast<void*>(uintptr_t{kernels::kMemoryAlignment});
  kernels::Arena::Bind(state->plan, nowhere, state->device);
  RETURN_IF_ERROR(state->UseMemory(job));
  const models::StageShape& shape = state->shape;
  const kernels::TensorView message(
      nowhere, shape.dtype, {shape.stream_tokens(), job.job.model().hidden()}, state->device);
  const auto begin = [&] {
    state->model->BeginStep(state->microbatches, /*global_valid_tokens=*/1, state->compute());
  };
  begin();
  state->reducer->BeginStep(state->compute());
  RETURN_IF_ERROR(GoThrough(state->training.program, message, *state));
  RETURN_IF_ERROR(state->reducer->Finish(state->compute()));
  begin();
  RETURN_IF_ERROR(GoThrough(state->evaluation.program, message, *state));
  return notes.keys();
}

}  // namespace muster::runtime
