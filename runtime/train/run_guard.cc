#include "runtime/train/run_guard.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/memory.h"
#include "parallel/comm/collectives.h"
#include "runtime/train/roll_back.h"

namespace muster::runtime {
namespace {

// What a line of a note begins with.
constexpr absl::string_view kChanged = "changed ", kReplayed = "replayed ", kReplicas = "replicas ";

// Of each rank's note the line that begins so, without its begin; empty if it has none.
std::vector<std::string> LinesOf(const std::vector<std::string>& notes, absl::string_view begin) {
  std::vector<std::string> lines;
  for (const std::string& note : notes) {
    lines.emplace_back();
    for (absl::string_view line : absl::StrSplit(note, '\n')) {
      if (absl::ConsumePrefix(&line, begin)) lines.back() = std::string(line);
    }
  }
  return lines;
}

// A line for each rank that has something.
std::string ByRank(const std::vector<std::string>& found) {
  std::string text;
  for (size_t rank = 0; rank < found.size(); ++rank) {
    if (!found[rank].empty()) absl::StrAppend(&text, "\n  rank ", rank, ": ", found[rank]);
  }
  return text;
}

}  // namespace

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
  ASSIGN_OR_RETURN(guard->injector_,
                   FaultInjector::Create(
                       {.run_directory = run_directory,
                        .plans = {plans.begin(), plans.end()},
                        .rank = world.rank(),
                        .num_ranks = world.size(),
                        .log = &world.log(),
                        .tensors = {state.parameters.get(), state.optimizer.get(), &state.plan},
                        .compute = state.compute()}));
  const Safety& safety = job.job.safety();
  ASSIGN_OR_RETURN(guard->state_check_, StateCheck::Create(state, safety.state_check_every()));
  ASSIGN_OR_RETURN(guard->replicas_,
                   ReplicaCheck::Create(state, world, safety.replica_check_every()));
  ASSIGN_OR_RETURN(guard->replay_, ReplayCheck::Create(state, safety.replay_every()));
  return guard;
}

std::function<absl::Status(const std::string& call, const std::string& path)> RunGuard::DiskHook(
    SaveTier tier) {
  if (injector_->idle()) return nullptr;
  return [this, tier](const std::string& call, const std::string& path) {
    return injector_->AtDiskCall(tier, call, path);
  };
}

absl::Status RunGuard::At(Instant instant, int64_t step) {
  if (step >= 0 && std::exchange(step_, step) == 0) RETURN_IF_ERROR(state_check_->Begin(step));
  if (injector_->idle()) return absl::OkStatus();
  // A flip while new weights are still on their way would be written over.
  if (instant == Instant::kUpdated) state_.gather->Finish(state_.compute());
  return injector_->At(instant, step_);
}

void RunGuard::BeginPass(int64_t step, int pass) {
  injector_->BeginPass(step, pass);
  digests_pass_ = search_ == nullptr && Replays(step);
  if (digests_pass_) replay_->Begin(state_.compute());
}

void RunGuard::EndPass(int64_t step, int pass) {
  if (digests_pass_) replay_->End(step, pass, state_.compute());
}

parallel::GradientObserver RunGuard::Observer() {
  return [this](int bucket, const kernels::TensorView& whole, kernels::StreamView compute) {
    return SeeGradients(bucket, whole, compute);
  };
}

absl::Status RunGuard::SeeGradients(int bucket, const kernels::TensorView& whole,
                                    kernels::StreamView compute) {
  if (!injector_->idle()) {
    RETURN_IF_ERROR(
        injector_->AtGradients(state_.layout.buckets[static_cast<size_t>(bucket)].slices));
  }
  if (digests_pass_) replay_->Digest(bucket, whole, compute);
  return search_ != nullptr ? search_->Look(bucket, whole, compute) : absl::OkStatus();
}

void RunGuard::BeforeLastBackward() {
  absl::Status status = At(Instant::kBackward);
  if (status.ok() && !injector_->idle()) status = injector_->AtActivations();
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
  if (replicas_->IsDue(step_)) replicas_->Take();
  spike_.clear();
  if (!steps_.WantsLossBeforeUpdate()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const double loss, ShareLoss());
  spike_ = steps_.Spike(loss);
  if (spike_.empty()) return absl::OkStatus();
  const kernels::TensorView& scale = state_.clip->facts().scale;  // 0: no update
  kernels::FillZeroAsync(scale.data, scale.bytes(), state_.compute());
  return absl::OkStatus();
}

void RunGuard::Updated(int64_t step) { state_check_->Updated(step); }

std::string RunGuard::Note(int64_t step) {
  std::string note;
  const std::string changed = state_check_->ChangedBefore(step);
  if (!changed.empty()) absl::StrAppend(&note, kChanged, changed, "\n");
  const std::string differing = replay_->Differing(step);
  if (!differing.empty()) absl::StrAppend(&note, kReplayed, differing, "\n");
  if (replicas_->IsDue(step)) absl::StrAppend(&note, kReplicas, replicas_->Note(), "\n");
  return note;
}

absl::StatusOr<std::string> RunGuard::NameNonFinite(int64_t step, bool has_gradient) {
  NonFiniteReport report{.text = "its gradient is not finite"};
  if (has_gradient) {
    ASSIGN_OR_RETURN(report, runtime::NameNonFinite(*state_.buckets, state_.compute(), world_));
  }
  if (report.knows_rank) {
    non_finite_step_ = step;
    return report.text;
  }
  // Of such steps in a row, the first one tells.
  if (std::exchange(non_finite_step_, step) == step - 1)
    return report.text + ", as in the step before";
  NonFiniteSearch search(state_.layout);
  search_ = &search;
  const absl::Status repeated = repeat_(step);
  search_ = nullptr;
  RETURN_IF_ERROR(repeated);
  ASSIGN_OR_RETURN(const std::string found, search.Describe(world_));
  return report.text + "; run again, " + found;
}

absl::Status RunGuard::Judge(const std::vector<std::string>& notes) const {
  const std::string changed = ByRank(LinesOf(notes, kChanged));
  if (!changed.empty()) {
    return RollBackError("weights, master copies or moments changed where no update changed them:" +
                         changed);
  }
  const std::string differing = ByRank(LinesOf(notes, kReplayed));
  if (!differing.empty()) {
    return RollBackError(
        "the same forward and backward, run twice, gave different gradients (in the order of the "
        "backward; of ranks that exchange activations, the cause may be any):" +
        differing);
  }
  return replicas_->Hear(LinesOf(notes, kReplicas));
}

absl::Status RunGuard::AfterStep(const StepMetrics& metrics, bool has_gradient,
                                 const std::vector<std::string>& notes) {
  if (metrics.skipped) {
    std::string why = spike_;
    if (!std::isfinite(metrics.grad_norm)) {
      ASSIGN_OR_RETURN(why, NameNonFinite(metrics.step, has_gradient));
    }
    if (world_.rank() == 0) {
      kernels::Log(kernels::Severity::kWarning,
                   absl::StrCat("step ", metrics.step, " is skipped: ", why));
    }
  }
  RETURN_IF_ERROR(Judge(notes));
  const std::string why = steps_.After(metrics.step, metrics.loss, metrics.skipped);
  return why.empty() ? absl::OkStatus() : RollBackError(why + "; going back to a checkpoint");
}

absl::Status RunGuard::BeforeSave(int64_t step) {
  if (step_ == 0 || (!state_check_->on() && !replicas_->on())) return absl::OkStatus();
  std::string note;
  ASSIGN_OR_RETURN(const std::string changed, state_check_->ChangedSince(step));
  if (!changed.empty()) absl::StrAppend(&note, kChanged, changed, "\n");
  if (replicas_->on()) {
    replicas_->Take();
    RETURN_IF_ERROR(state_.compute().Synchronize());
    absl::StrAppend(&note, kReplicas, replicas_->Note(), "\n");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> notes, world_.GatherText(note));
  return Judge(notes);
}

std::function<absl::Status(int64_t step)> RunGuard::SaveHook() {
  return [this](int64_t step) { return BeforeSave(step); };
}

}  // namespace muster::runtime
