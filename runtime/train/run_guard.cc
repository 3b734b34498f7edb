#include "runtime/train/run_guard.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/memory.h"
#include "parallel/comm/collectives.h"
#include "runtime/train/non_finite.h"
#include "runtime/train/replica_check.h"
#include "runtime/train/roll_back.h"

namespace muster::runtime {

RunGuard::RunGuard(const ResolvedJob& job, parallel::World& world, TrainingState& state)
    : job_(job),
      world_(world),
      state_(state),
      steps_({.max_consecutive_skips = job.job.safety().max_consecutive_skips(),
              .loss_spike_factor = job.job.safety().loss_spike_factor(),
              .loss_window = job.job.safety().loss_window(),
              .skips_spikes = job.job.safety().loss_spike_action() == SKIP}) {}

absl::StatusOr<std::unique_ptr<RunGuard>> RunGuard::Create(const ResolvedJob& job,
                                                           const std::string& run_directory,
                                                           parallel::World& world,
                                                           TrainingState& state) {
  std::unique_ptr<RunGuard> guard(new RunGuard(job, world, state));
  const auto& plans = job.job.faults().plan();
  ASSIGN_OR_RETURN(guard->injector_, FaultInjector::Create({.run_directory = run_directory,
                                                            .plans = {plans.begin(), plans.end()},
                                                            .rank = world.rank(),
                                                            .log = &world.log(),
                                                            .parameters = state.parameters.get(),
                                                            .compute = state.compute()}));
  return guard;
}

std::function<absl::Status(const std::string& call, const std::string& path)> RunGuard::DiskHook() {
  if (injector_->idle()) return nullptr;
  return [this](const std::string& call, const std::string& path) {
    return injector_->AtDiskCall(call, path);
  };
}

absl::Status RunGuard::At(Instant instant, int64_t step) {
  if (step >= 0) step_ = step;
  if (injector_->idle()) return absl::OkStatus();
  // A flip while new weights are still on their way would be written over.
  if (instant == Instant::kUpdated) state_.gather->Finish(state_.compute());
  return injector_->At(instant, step_);
}

void RunGuard::BeforeLastBackward() {
  const absl::Status status = At(Instant::kBackward);
  if (!status.ok()) kernels::Log(kernels::Severity::kError, std::string(status.message()));
}

// Over the world, by way of the step's sums, which are filled again after the update.
absl::StatusOr<double> RunGuard::ShareLoss() {
  const kernels::StreamView compute = state_.compute();
  const kernels::TensorView losses = state_.step_sums.Slice(0, 0, StepSums::kLosses);
  kernels::CopyAsync(losses, state_.model->facts().losses, compute);
  RETURN_IF_ERROR(parallel::AllReduce(losses, parallel::ReduceOp::kSum,
                                      state_.mesh->Group(parallel::Axis::kWorld), compute));
  kernels::CopyAsync(state_.host_sums.data(), losses.data, losses.bytes(), compute);
  RETURN_IF_ERROR(compute.Synchronize());
  return static_cast<const double*>(state_.host_sums.data())[0];
}

absl::Status RunGuard::BeforeUpdate() {
  spike_.clear();
  if (!steps_.WantsLossBeforeUpdate()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const double loss, ShareLoss());
  spike_ = steps_.Spike(loss);
  if (spike_.empty()) return absl::OkStatus();
  const kernels::TensorView& scale = state_.clip->facts().scale;  // 0: no update
  kernels::FillZeroAsync(scale.data, scale.bytes(), state_.compute());
  return absl::OkStatus();
}

absl::Status RunGuard::AfterStep(const StepMetrics& metrics, bool has_gradient) {
  if (metrics.skipped) {
    std::string why = spike_;
    if (!std::isfinite(metrics.grad_norm) && has_gradient) {
      ASSIGN_OR_RETURN(why, NameNonFinite(*state_.buckets, state_.compute(), world_));
    } else if (!std::isfinite(metrics.grad_norm)) {
      why =
          "its gradient is not finite, and was overwritten before the host knew; if the next one "
          "is not finite either, its tensor will be named";
    }
    if (world_.rank() == 0) {
      kernels::Log(kernels::Severity::kWarning,
                   absl::StrCat("step ", metrics.step, " is skipped: ", why));
    }
  }
  const std::string why = steps_.After(metrics.step, metrics.loss, metrics.skipped);
  if (!why.empty()) return RollBackError(why + "; going back to a checkpoint");
  const int64_t every = job_.job.safety().replica_check_every();
  return every > 0 && metrics.step % every == 0 ? CompareReplicas(metrics.step) : absl::OkStatus();
}

absl::Status RunGuard::CompareReplicas(int64_t step) {
  state_.gather->Finish(state_.compute());
  replicas_checked_ = step;
  return CheckReplicas(*state_.buckets, *state_.parameters, *state_.mesh, state_.compute(), world_);
}

absl::Status RunGuard::BeforeSave(int64_t step) {
  const bool checks = job_.job.safety().replica_check_every() > 0;
  return checks && step_ > 0 && replicas_checked_ != step ? CompareReplicas(step)
                                                          : absl::OkStatus();
}

std::function<absl::Status(int64_t step)> RunGuard::SaveHook() {
  return [this](int64_t step) { return BeforeSave(step); };
}

}  // namespace muster::runtime
