#pragma once
// A job's step loop on one rank. Step is one screen: batch, forward and backward with gradients
// reducing behind it, norm and clip, update, weights gathered under the next forward, facts.
//
// The host reads a step's facts (loss, gradient norm, times, wishes to stop) late: once the next
// step's forward and backward are enqueued, and before its update is. So the device never waits for
// the host, and an update still knows how the one before ended. Where work runs inline there is
// nothing to run ahead of, and a step reads its own facts; so it does in a pipeline.
// docs/concepts/late_facts.md
#include <atomic>
#include <limits>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/pp/runner.h"
#include "runtime/goodput/ledger.h"
#include "runtime/input/batch_loader.h"
#include "runtime/job/config.h"
#include "runtime/job/peak.h"
#include "runtime/train/metrics.h"
#include "runtime/train/run_checkpoints.h"
#include "runtime/train/run_guard.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

struct TrainerOptions {
  std::string run_directory;  // exists, made or continued by PrepareRunDirectory
  int attempt = 0;
  std::string start_from;                   // see RunDirectory
  int64_t process_start_ns = 0;             // CLOCK_MONOTONIC
  SchedulerJob scheduler;                   // for the ledger
  const std::atomic<bool>* stop = nullptr;  // set by a signal: end after the current step
  StartTimes* start = nullptr;              // hears of each part of the start; outlives the trainer
  RankProgress* progress = nullptr;         // hears of every state and step; outlives the trainer
  kernels::StreamMode compute_mode = kernels::StreamMode::kInline;
};

// How a run ended. Losses are NaN without validation data.
struct TrainResult {
  int64_t steps = 0;
  double validation_loss = std::numeric_limits<double>::quiet_NaN();
  double unigram_entropy = std::numeric_limits<double>::quiet_NaN();
};

// All steps or max_seconds; asked to stop; either, but the disk did not take what is left.
enum class TrainEnd { kDone, kStopped, kNotSaved };

class Trainer : private parallel::MicrobatchObserver {
 public:
  // `job` and `world` outlive the trainer. The state is that of the run's newest checkpoint, if
  // any.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const ResolvedJob& job,
                                                         parallel::World& world,
                                                         TrainerOptions options);
  // Trains the steps that are left, evaluates, writes the final weights. Asked to stop, it saves a
  // checkpoint and does not evaluate.
  absl::StatusOr<TrainEnd> Run();
  // After Run has failed, of a process that is about to end without destructors: closes the books.
  // The memory stays, for the messages that are still under way.
  void GiveUp();
  // The forward and backward of the next step, without its update: libraries load their kernels and
  // take their scratch memory now, so that no step takes any, and a lack of it ends the job here.
  // Of the blocks the first of each kind, of microbatches two: nothing else has kernels or shapes
  // of its own. With graphs a second run, of all, records them. Pipelines run all of it. Changes
  // nothing that a step sees. Run calls it on GPUs, but not for pipelines. Errors: out of memory,
  // naming the biggest blocks of the plan.
  absl::Status WarmUp();
  // Enqueues update number `step`, from 1; reads the facts of the step before.
  absl::Status Step(int64_t step);
  // Waits for the last step and reads its facts, if that has not been done; saves the state after
  // it, if Run found that due. To be called before anything that depends on either: last_step(), an
  // evaluation, the end.
  absl::Status Settle();
  // Mean loss over the validation windows, equal on all ranks, in nats per token.
  absl::StatusOr<double> Evaluate();

  const TrainingState& state() const { return *state_; }
  const StepMetrics& last_step() const { return last_; }  // the last one read; on every rank
  const TrainResult& result() const { return result_; }   // so far; valid on every rank
  const RunCheckpoints& checkpoints() const { return *checkpoints_; }

 private:
  Trainer(const ResolvedJob& job, parallel::World& world, TrainerOptions options)
      : job_(job), world_(world), options_(std::move(options)) {}
  void BeforeBackward(int microbatch, bool last) override;
  absl::Status TraceStep(int64_t step);
  bool ReadsLate() const;
  // The step's batch, its forward and backward, twice where that is checked: reduced gradients.
  absl::Status MakeGradients(int64_t step);
  // The batch that is on the device through all stages and back.
  absl::Status ForwardBackward(int64_t step, int pass, const parallel::PipelineRun& run,
                               models::Extent extent = models::Extent::kAll);
  // For the guard: of the step whose facts are being read. Gradients are then those of this step.
  absl::Status Repeat(int64_t step);
  absl::Status LoadBatch(int64_t step);
  // batch_ to the device, through pinned memory `slot`: free once the copies that used it have run.
  void CopyBatch(const models::MicrobatchTokens& to, size_t slot);
  absl::Status ShareFacts();
  absl::Status Collect(int64_t step);
  absl::Status EvaluateAt(int64_t step);
  absl::Status End();
  absl::Status Note(const absl::Status& saved);
  bool OverTime() const;

  const ResolvedJob& job_;
  parallel::World& world_;
  const TrainerOptions options_;
  Peak peak_;
  std::unique_ptr<LedgerWriter> ledger_;
  std::unique_ptr<BatchLoader> loader_, validation_;  // validation_ may be null
  std::unique_ptr<TrainingState> state_;
  std::unique_ptr<MetricsWriter> metrics_;  // rank 0 only
  std::unique_ptr<RunGuard> guard_;
  std::unique_ptr<RunCheckpoints> checkpoints_;
  HostBatch batch_;
  StepMetrics last_;
  TrainResult result_;
  double learning_rate_ = 0;
  double useful_flops_ = 0;   // of the world, this attempt
  int64_t unread_step_ = 0;   // 0: every step's facts have been read
  int64_t unsaved_step_ = 0;  // whose save waits for them; 0: none
  int64_t skipped_steps_ = 0, train_start_ns_ = 0;
  bool read_late_ = false;  // the step that is not read yet, or was read last
  bool repeated_ = false;   // it was repeated, and the gradients of the step behind it are lost
  bool stop_agreed_ = false, over_time_ = false, books_closed_ = false, not_saved_ = false;
  bool trained_ = false, evaluated_ = false;  // at least once, by this process
  bool told_start_ = false;                   // rank 0: options_.start is in the log
};

}  // namespace muster::runtime
