#pragma once
// What watches over a run from inside: planned faults (drills), gradients that are not finite, loss
// spikes, state that changes between updates, replicas that drift apart, gradients that a second
// run of the same step does not repeat. The trainer tells it where
// it is; an error it returns ends the attempt before anything of the step is saved.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/gradient_observer.h"
#include "runtime/fault/injector.h"
#include "runtime/job/config.h"
#include "runtime/train/metrics.h"
#include "runtime/train/non_finite.h"
#include "runtime/train/replay_check.h"
#include "runtime/train/replica_check.h"
#include "runtime/train/state_check.h"
#include "runtime/train/step_guard.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

class RunGuard {
 public:
  // All outlive it.
  static absl::StatusOr<std::unique_ptr<RunGuard>> Create(const ResolvedJob& job,
                                                          const std::string& run_directory,
                                                          parallel::World& world,
                                                          TrainingState& state);
  // `step` -1: the step of the last call with one.
  absl::Status At(Instant instant, int64_t step = -1);
  // Whether the forward and backward of `step` should run twice, passes 0 and 1, to be compared.
  bool Replays(int64_t step) const { return replay_->IsDue(step); }
  // Around each of them, and once in it.
  void BeginPass(int64_t step, int pass);
  void BeforeLastBackward();
  void EndPass(int64_t step, int pass);
  // For the reducer; valid while the guard lives.
  parallel::GradientObserver Observer();
  // Runs the forward and backward of a step, the last whose facts were read, once more: where a
  // gradient is not finite, to see who computed it. Collective.
  void SetRepeat(std::function<absl::Status(int64_t step)> repeat) { repeat_ = std::move(repeat); }
  // Once the step's gradient is measured. Where spikes of the loss are to be skipped, waits for the
  // loss, and takes a step that spikes its update. Collective then.
  absl::Status BeforeUpdate();
  bool skips_update() const { return !spike_.empty(); }  // of this step, for its loss
  // Whether the update of `step` takes digests of the state; `saved`: what it leaves may be.
  bool TakesDigests(int64_t step, bool saved) const {
    return state_check_->TakesDigests(step, saved);
  }
  // Behind that update.
  void Updated(int64_t step);
  // Once the step's facts are on the host, and before the next update: what this rank has to tell
  // all others, on an exchange that each step makes.
  std::string Note(int64_t step);
  // With what all had to tell, by rank; `has_gradient`: while the gradient is still its own, so
  // that what is not finite can be named. Collective where something is found. Errors:
  // RollBackError, equal on all ranks.
  absl::Status AfterStep(const StepMetrics& metrics, bool has_gradient,
                         const std::vector<std::string>& notes);
  // Before anything of `step`, the last that has updated, is written down for good. Collective if
  // the state or replicas are checked. Errors: RollBackError.
  absl::Status BeforeSave(int64_t step);
  std::function<absl::Status(int64_t step)> SaveHook();  // the same; valid while the guard lives
  // For the saves to a tier; called on any thread, while the guard lives.
  std::function<absl::Status(const std::string& call, const std::string& path)> DiskHook(
      SaveTier tier);

 private:
  RunGuard(const ResolvedJob& job, parallel::World& world, TrainingState& state);
  const ResolvedJob& job_;
  parallel::World& world_;
  TrainingState& state_;
  StepGuard steps_;
  std::unique_ptr<FaultInjector> injector_;
  std::unique_ptr<StateCheck> state_check_;
  std::unique_ptr<ReplicaCheck> replicas_;
  std::unique_ptr<ReplayCheck> replay_;
  absl::Status SeeGradients(int bucket, const kernels::TensorView& whole,
                            kernels::StreamView compute);
  absl::StatusOr<double> ShareLoss();
  absl::StatusOr<std::string> NameNonFinite(int64_t step, bool has_gradient);
  absl::Status Judge(const std::vector<std::string>& notes) const;
  int64_t step_ = 0;
  bool digests_pass_ = false;
  std::function<absl::Status(int64_t step)> repeat_;
  NonFiniteSearch* search_ = nullptr;  // while a step is repeated
  std::string spike_;
  int64_t non_finite_step_ = -1;  // the last one whose gradient was not finite
};

}  // namespace muster::runtime
