#include "runtime/train/trainer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "models/uneven_work.h"
#include "parallel/comm/collectives.h"
#include "runtime/checkpoint/not_saved.h"
#include "runtime/checkpoint/weights.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/rank_progress.h"
#include "runtime/job/exit_code.h"
#include "runtime/job/run_lock.h"
#include "runtime/train/agreed_peak.h"
#include "runtime/train/clock_exchange.h"
#include "runtime/train/lr_schedule.h"
#include "runtime/train/start_times.h"
#include "runtime/train/step_breakdown.h"
#include "runtime/train/step_trace.h"

namespace muster::runtime {

using kernels::Span;
using kernels::StreamView;
using parallel::Axis;

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const ResolvedJob& job,
                                                         parallel::World& world,
                                                         TrainerOptions options) {
  std::unique_ptr<Trainer> trainer(new Trainer(job, world, std::move(options)));
  Trainer& t = *trainer;
  // The measured peak is rank 0's, so that all ranks divide by the same number.
  ASSIGN_OR_RETURN(t.peak_, AgreedPeak(job, world));
  ASSIGN_OR_RETURN(const ClockOffset clock, ExchangeClocks(KernelOf(world), world));
  ASSIGN_OR_RETURN(t.ledger_,
                   LedgerWriter::Create(t.options_.run_directory,
                                        {.attempt = t.options_.attempt,
                                         .rank = world.rank(),
                                         .world_size = world.size(),
                                         .peak_flops = t.peak_.flops,
                                         .peak_label = t.peak_.label,
                                         .host = world.host(),
                                         .config_hash = job.hash,
                                         .process_start_monotonic_ns = t.options_.process_start_ns,
                                         .clock = clock,
                                         .scheduler = t.options_.scheduler},
                                        t.options_.progress));
  t.ledger_->Enter(State::kInitModel);
  ASSIGN_OR_RETURN(t.state_, TrainingState::Build(job, world,
                                                  {.run_directory = t.options_.run_directory,
                                                   .compute_mode = t.options_.compute_mode,
                                                   .start = t.options_.start}));
  ASSIGN_OR_RETURN(t.guard_, RunGuard::Create(job, t.options_.run_directory, world, *t.state_));
  t.state_->reducer->Observe(t.guard_->Observer());
  t.guard_->SetRepeat([&t](int64_t step) { return t.Repeat(step); });
  t.ledger_->Enter(State::kCheckpointLoad);
  EnterPart(t.options_.start, "checkpoint");
  ASSIGN_OR_RETURN(t.checkpoints_,
                   RunCheckpoints::Create(job, world,
                                          {.run_directory = t.options_.run_directory,
                                           .attempt = t.options_.attempt,
                                           .start_from = t.options_.start_from,
                                           .hook = t.guard_->DiskHook(SaveTier::kDisk),
                                           .memory_hook = t.guard_->DiskHook(SaveTier::kMemory),
                                           .before_save = t.guard_->SaveHook()},
                                          *t.state_, *t.ledger_));
  t.result_.steps = t.checkpoints_->facts().step;
  t.skipped_steps_ = t.checkpoints_->facts().skipped_steps;
  t.ledger_->Enter(State::kDataSeek);
  EnterPart(t.options_.start, "data");
  const int context_rank = t.state_->mesh->coordinates().cp;
  ASSIGN_OR_RETURN(t.loader_, BatchLoader::Create(job, Split::kTrain, context_rank));
  if (job.job.data().has_synthetic() || job.job.data().validation_files_size() > 0) {
    ASSIGN_OR_RETURN(t.validation_, BatchLoader::Create(job, Split::kValidation, context_rank));
    ASSIGN_OR_RETURN(t.result_.unigram_entropy, t.validation_->UnigramEntropy());
  }
  if (world.rank() == 0) {
    ASSIGN_OR_RETURN(t.metrics_, MetricsWriter::Create(t.options_.run_directory, job,
                                                       {.attempt = t.options_.attempt,
                                                        .first_step = t.result_.steps + 1}));
  }
  return trainer;
}

absl::StatusOr<TrainEnd> Trainer::Run() {
  // A pipeline's first step is its warm-up: it runs microbatch by microbatch (PlanOpening).
  const bool warms = state_->device.type == kernels::DeviceType::kCuda && job_.mesh.pp == 1;
  if (warms && result_.steps < job_.job.train().steps()) RETURN_IF_ERROR(WarmUp());
  EnterPart(options_.start, "step");
  train_start_ns_ = kernels::MonotonicNs();
  const int64_t every = job_.job.evaluate().every_steps();
  int64_t step = result_.steps, evaluated = -1;
  while (step < job_.job.train().steps() && !stop_agreed_ && !over_time_) {
    const bool traced = ++step == job_.job.log().trace_step();
    RETURN_IF_ERROR(traced ? TraceStep(step) : Step(step));
    const bool evaluates = every > 0 && step % every == 0 && validation_ != nullptr;
    if (checkpoints_->IsDue(step)) {
      unsaved_step_ = step;
      checkpoints_->Mark(step);
    }
    if (evaluates || unread_step_ == 0) RETURN_IF_ERROR(Settle());
    if (evaluates && !stop_agreed_) RETURN_IF_ERROR(EvaluateAt(evaluated = step));
  }
  RETURN_IF_ERROR(Settle());
  RETURN_IF_ERROR(Note(checkpoints_->AtEnd(step, skipped_steps_, stop_agreed_)));
  if (validation_ != nullptr && !stop_agreed_ && evaluated != step) {
    RETURN_IF_ERROR(EvaluateAt(step));
  }
  RETURN_IF_ERROR(End());
  if (not_saved_) return TrainEnd::kNotSaved;
  return stop_agreed_ ? TrainEnd::kStopped : TrainEnd::kDone;
}

// What can still be kept is kept; the end of the run tells that something is missing.
absl::Status Trainer::Note(const absl::Status& saved) {
  if (saved.ok() || !IsNotSaved(saved)) return saved;
  not_saved_ = true;
  if (world_.rank() == 0) kernels::Log(kernels::Severity::kError, std::string(saved.message()));
  return absl::OkStatus();
}

void Trainer::GiveUp() {
  if (!std::exchange(books_closed_, true)) ledger_->End(kNoExitCode);
}

absl::Status Trainer::End() {
  ledger_->Enter(State::kCheckpointStall);
  state_->gather->Finish(state_->compute());
  RETURN_IF_ERROR(guard_->BeforeSave(result_.steps));
  RETURN_IF_ERROR(Note(kernels::Annotate(
      SaveWeights(
          {.directory = options_.run_directory + "/weights",
           .attempt = options_.attempt,
           .fence = [this] { return CheckEpoch(options_.run_directory, options_.attempt); }},
          *state_->parameters, state_->Buffers(), world_, state_->compute(), state_->hooks.get()),
      "the final weights are not saved")));
  if (!not_saved_) RETURN_IF_ERROR(checkpoints_->Done());  // else what is in memory may be needed
  ledger_->Enter(stop_agreed_ ? State::kDrain : State::kTeardown);
  books_closed_ = true;
  ledger_->End(not_saved_ ? kExitNotSaved : stop_agreed_ ? kExitRequeue : kExitDone);
  return absl::OkStatus();
}

absl::Status Trainer::Step(int64_t step) {
  TrainingState& s = *state_;
  const StreamView compute = s.compute();
  world_.log().SetPlace({.step = step});
  repeated_ = false;
  if (unread_step_ == 0) ledger_->StepBegin(step);
  RETURN_IF_ERROR(guard_->At(Instant::kBegin, step));
  if (unread_step_ == 0) {
    RETURN_IF_ERROR(s.timeline->Collect().status());  // the step's time starts here
  }
  RETURN_IF_ERROR(MakeGradients(step));
  RETURN_IF_ERROR(guard_->At(Instant::kReduced));
  if (unread_step_ != 0) {
    RETURN_IF_ERROR(Settle());
    ledger_->StepBegin(step);
    if (repeated_) RETURN_IF_ERROR(MakeGradients(step));
  }
  {
    Span span(compute, "optimizer", parallel::kOptimizer);
    RETURN_IF_ERROR(s.clip->Measure(compute));
    learning_rate_ = LearningRate(job_.job.optimizer(), job_.job.train().steps(), step);
    checkpoints_->BeforeUpdate();
    RETURN_IF_ERROR(guard_->BeforeUpdate());
    const bool digests = guard_->TakesDigests(step, checkpoints_->IsDue(step));
    s.optimizer->Step(learning_rate_, step - skipped_steps_, s.clip->facts(), compute, digests);
    if (digests) guard_->Updated(step);
    RETURN_IF_ERROR(s.gather->Start(compute));
  }
  RETURN_IF_ERROR(guard_->At(Instant::kUpdated));
  {
    Span span(compute, "facts", parallel::kOther);
    RETURN_IF_ERROR(ShareFacts());
  }
  s.timeline->Enter(parallel::kOther);  // if the device waits for the next step, it waits in this
  s.timeline->Cut();
  unread_step_ = step;
  read_late_ = ReadsLate();
  return read_late_ ? absl::OkStatus() : Settle();
}

absl::Status Trainer::MakeGradients(int64_t step) {
  TrainingState& s = *state_;
  s.timeline->Enter(parallel::kCompute);
  RETURN_IF_ERROR(LoadBatch(step));
  // On a GPU a pipeline's first run may take its microbatches in another order than the next.
  const bool trained = std::exchange(trained_, true);
  const bool alike = trained || job_.mesh.pp == 1 || s.device.type == kernels::DeviceType::kCpu;
  const bool replays = guard_->Replays(step) && alike;
  RETURN_IF_ERROR(ForwardBackward(step, /*pass=*/0, trained ? s.training : s.first_training));
  if (replays) {
    s.timeline->Enter(parallel::kOther);
    RETURN_IF_ERROR(ForwardBackward(step, /*pass=*/1, s.training));
  }
  if (!s.tied_weight) return absl::OkStatus();
  return s.tied_weight->SumGradients(*s.buckets, s.optimizer->zero_level() == 0, s.compute());
}

absl::Status Trainer::Repeat(int64_t step) {
  // Read late, another step's batch is on the device, and its gradients are lost.
  if (read_late_) RETURN_IF_ERROR(LoadBatch(step));
  repeated_ = read_late_;
  state_->timeline->Enter(parallel::kOther);
  return ForwardBackward(step, /*pass=*/2, state_->training);
}

absl::Status Trainer::ForwardBackward(int64_t step, int pass, const parallel::PipelineRun& run,
                                      models::Extent extent) {
  TrainingState& s = *state_;
  guard_->BeginPass(step, pass);
  s.model->BeginStep(s.microbatches, batch_.global_valid_tokens, s.compute(), extent);
  if (s.passes != nullptr) s.passes->BeginStep(batch_.global_valid_tokens);
  s.reducer->BeginStep(s.compute());
  RETURN_IF_ERROR(parallel::RunSchedule(run, s.channels.get(), s.stage(), *this, s.compute()));
  RETURN_IF_ERROR(s.reducer->Finish(s.compute()));
  guard_->EndPass(step, pass);
  return absl::OkStatus();
}

absl::Status Trainer::WarmUp() {
  TrainingState& s = *state_;
  ledger_->Enter(State::kWarmup);
  EnterPart(options_.start, "warm-up");
  RETURN_IF_ERROR(LoadBatch(result_.steps + 1));
  const bool cut = job_.mesh.pp == 1, records = s.passes != nullptr;
  const auto run = [&](const parallel::PipelineRun& passes, models::Extent extent) {
    // Of no step that a guard knows.
    const absl::Status made = ForwardBackward(/*step=*/0, /*pass=*/0, passes, extent);
    const absl::Status ran = s.compute().Synchronize();
    return made.ok() ? ran : made;
  };
  // The second microbatch adds to what the first one writes. Passes are recorded the second time
  // that they run, all of them, which takes memory for graphs.
  absl::Status status =
      run(cut && !records ? parallel::FirstMicrobatches(s.first_training, 2) : s.first_training,
          cut ? models::Extent::kOneOfAKind : models::Extent::kAll);
  trained_ = true;
  if (status.ok() && records) status = run(s.training, models::Extent::kAll);
  if (!absl::IsResourceExhausted(status)) return status;
  return kernels::Annotate(
      status, "beside the memory plan of " + std::to_string(s.plan.total_bytes()) +
                  " bytes there is no room for what libraries want; its biggest blocks are\n" +
                  s.plan.Describe(8));
}

absl::Status Trainer::TraceStep(int64_t step) {
  RETURN_IF_ERROR(Settle());
  ledger_->Enter(State::kEval);  // a measurement beside training, like an evaluation
  std::vector<kernels::Trace::Row> rows = {{state_->compute(), "compute"},
                                           {state_->comm(), "comm"}};
  for (const auto& [name, stream] : state_->channels->streams()) rows.push_back({stream, name});
  ASSIGN_OR_RETURN(const std::unique_ptr<StepTrace> trace,
                   StepTrace::Start(world_, std::move(rows)));
  RETURN_IF_ERROR(Step(step));
  RETURN_IF_ERROR(Settle());
  ledger_->Enter(State::kEval);
  trace->Write(options_.run_directory + "/trace.step-" + std::to_string(step) + ".json");
  return absl::OkStatus();
}

// Not with stages: hosts ahead of their devices would post the next step's receives while a stage
// may still have to load a kernel (parallel/pp/runner.h, PlanOpening). Nor where the state after a
// step is asked for: after a skipped one, as the next one's skip may have the same cause, and in
// drills.
bool Trainer::ReadsLate() const {
  return !state_->compute().runs_inline() && job_.mesh.pp == 1 && !last_.skipped &&
         job_.job.faults().plan().empty();
}

absl::Status Trainer::Settle() {
  if (unread_step_ != 0) RETURN_IF_ERROR(Collect(std::exchange(unread_step_, 0)));
  if (unsaved_step_ == 0) return absl::OkStatus();
  return checkpoints_->AfterStep(std::exchange(unsaved_step_, 0), skipped_steps_);
}

void Trainer::BeforeBackward(int, bool last) {
  state_->reducer->SetLastMicrobatch(last);
  if (last) guard_->BeforeLastBackward();
  ledger_->Heartbeat();
}

absl::Status Trainer::LoadBatch(int64_t step) {
  TrainingState& s = *state_;
  Span span(s.compute(), "data", parallel::kData);
  RETURN_IF_ERROR(guard_->At(Instant::kData));
  RETURN_IF_ERROR(loader_->Load(step, s.mesh->coordinates().dp, &batch_));
  // The step before may still read its slot; the one before that was settled.
  CopyBatch({s.tokens, s.targets, s.positions}, static_cast<size_t>(step) % s.host_batches.size());
  return absl::OkStatus();
}

void Trainer::CopyBatch(const models::MicrobatchTokens& to, size_t slot) {
  char* pinned = static_cast<char*>(state_->host_batches[slot].data());
  const auto copy = [&](const kernels::TensorView& tensor, const std::vector<int32_t>& from) {
    std::memcpy(pinned, from.data(), static_cast<size_t>(tensor.bytes()));
    kernels::CopyAsync(tensor.data, pinned, tensor.bytes(), state_->compute());
    pinned += tensor.bytes();
  };
  copy(to.tokens, batch_.tokens);
  copy(to.targets, batch_.targets);
  copy(to.positions, batch_.positions);
}

// Adds losses, expert load and requests to stop over the world, and brings them to the host.
absl::Status Trainer::ShareFacts() {
  TrainingState& s = *state_;
  const StreamView compute = s.compute();
  const parallel::ProcessGroup& everyone = s.mesh->Group(Axis::kWorld);
  auto* host = static_cast<double*>(s.host_sums.data());
  std::fill_n(host, StepSums::kSize, 0.0);
  host[StepSums::kStopRequests] = options_.stop != nullptr && options_.stop->load() ? 1 : 0;
  host[StepSums::kTimeUp] = world_.rank() == 0 && OverTime() ? 1 : 0;
  kernels::CopyAsync(s.step_sums.data, host, s.step_sums.bytes(), compute);
  kernels::CopyAsync(s.step_sums.Slice(0, 0, StepSums::kLosses), s.model->facts().losses, compute);
  RETURN_IF_ERROR(parallel::AllReduce(s.step_sums, parallel::ReduceOp::kSum, everyone, compute));
  kernels::CopyAsync(host, s.step_sums.data, s.step_sums.bytes(), compute);
  kernels::CopyAsync(s.host_norm.data(), s.clip->facts().norm.data, s.clip->facts().norm.bytes(),
                     compute);
  const kernels::TensorView& load = s.model->facts().expert_load;
  if (load) {
    RETURN_IF_ERROR(parallel::AllReduce(load, parallel::ReduceOp::kSum, everyone, compute));
    s.model->UpdateBalance(load, compute);
    kernels::CopyAsync(s.host_load.data(), load.data, load.bytes(), compute);
    const kernels::TensorView& rows = s.model->facts().expert_rows;
    kernels::CopyAsync(s.host_rows.data(), rows.data, rows.bytes(), compute);
  }
  return absl::OkStatus();
}

// Reads the step's facts on the host and writes them down.
absl::Status Trainer::Collect(int64_t step) {
  TrainingState& s = *state_;
  ASSIGN_OR_RETURN(std::vector<int64_t> mine, s.timeline->Read());
  const int64_t uneven_ns = models::FoldUnevenWork(&mine);
  if (options_.progress != nullptr) {
    options_.progress->NoteUneven(uneven_ns, ExpertRows(s));
  }
  RETURN_IF_ERROR(s.comm().status());  // a reduction that failed
  RETURN_IF_ERROR(s.channels->status());
  ASSIGN_OR_RETURN(const StepBreakdown breakdown,
                   ShareBreakdown(mine, {checkpoints_->Progress(), guard_->Note(step)}, world_));
  if (options_.start != nullptr && world_.rank() == 0 && !std::exchange(told_start_, true)) {
    kernels::Log(kernels::Severity::kInfo, options_.start->Line(breakdown.end_ns));
  }
  checkpoints_->PrepareMemory();
  const absl::Status saved = checkpoints_->Hear(breakdown.notes[0]);
  const auto* sums = static_cast<const double*>(s.host_sums.data());
  StepMetrics& m = last_;
  m.step = result_.steps = step;
  m.attempt = options_.attempt;
  m.loss = sums[0];
  m.aux_loss = sums[1];
  m.z_loss = sums[2];
  m.grad_norm = *static_cast<const double*>(s.host_norm.data());
  m.learning_rate = learning_rate_;
  m.skipped = !std::isfinite(m.grad_norm) || guard_->skips_update();
  m.tokens = job_.job.train().global_batch_sequences() * job_.sequence_length;
  m.expert_imbalance = ExpertImbalance(s);
  m.dropped_tokens = DroppedChoices(job_, m.tokens, s);
  stop_agreed_ = sums[StepSums::kStopRequests] > 0;
  over_time_ = sums[StepSums::kTimeUp] > 0;
  skipped_steps_ += m.skipped ? 1 : 0;

  const double flops = s.cost.flops_per_token() * static_cast<double>(m.tokens);
  const int64_t now = kernels::MonotonicNs();
  // What the host does here is part of the step only if the device waits for it.
  m.breakdown_seconds = breakdown.MeanSeconds(read_late_ ? breakdown.end_ns : now);
  m.step_seconds = std::accumulate(m.breakdown_seconds.begin(), m.breakdown_seconds.end(), 0.0);
  const double machine_flops = peak_.flops * world_.size();
  m.mfu = flops / (m.step_seconds * machine_flops);
  const double hardware_flops = s.cost.hardware_flops_per_token() * static_cast<double>(m.tokens);
  m.hfu = hardware_flops / (m.step_seconds * machine_flops);
  m.mfu_full_attention = m.mfu * s.cost.flops_per_token_full() / s.cost.flops_per_token();
  if (m.skipped) {
    ledger_->Skip(step, guard_->skips_update() ? "the loss spikes" : "the gradient is not finite");
  } else {
    useful_flops_ += flops;
  }
  const double elapsed = static_cast<double>(now - options_.process_start_ns) * 1e-9;
  m.goodput = useful_flops_ / (elapsed * machine_flops);
  if (metrics_ != nullptr) metrics_->Step(m);
  RETURN_IF_ERROR(guard_->AfterStep(m, /*has_gradient=*/!read_late_, breakdown.notes[1]));
  ledger_->StepEnded({.step = step,
                      .loss_bits = std::bit_cast<uint64_t>(m.loss),
                      .grad_norm_bits = std::bit_cast<uint64_t>(m.grad_norm),
                      .model_flops = flops / world_.size(),
                      .hardware_flops = hardware_flops / world_.size(),
                      .tokens = m.tokens,
                      .first_sequence = step * job_.job.train().global_batch_sequences(),
                      .num_sequences = job_.job.train().global_batch_sequences(),
                      .skipped = m.skipped,
                      .time_ns = breakdown.mine_ns});
  return saved;
}

absl::StatusOr<double> Trainer::Evaluate() {
  if (validation_ == nullptr) {
    return absl::FailedPreconditionError(
        "evaluation wants data.validation_files or data.synthetic; the job has neither");
  }
  RETURN_IF_ERROR(Settle());
  TrainingState& s = *state_;
  const int dp = s.mesh->degrees().dp, rank = s.mesh->coordinates().dp;
  const int64_t windows =
      std::min<int64_t>(job_.job.evaluate().sequences(), validation_->num_windows());
  // A pipeline evaluates several microbatches behind each other, else most stages would wait.
  const int64_t at_once = s.evaluation_microbatches;
  const int64_t per_round = dp * job_.microbatch_sequences * at_once;
  double sum = 0;
  for (int64_t round = 0; round * per_round < windows; ++round) {
    const std::vector<models::MicrobatchTokens> inputs(s.microbatches.begin(),
                                                       s.microbatches.begin() + at_once);
    const int64_t begin_ns = kernels::MonotonicNs();
    if (options_.progress != nullptr) options_.progress->RoundBegan();
    RETURN_IF_ERROR(guard_->At(Instant::kEvaluate));
    for (int64_t m = 0; m < at_once; ++m) {
      RETURN_IF_ERROR(validation_->LoadValidation(round * at_once + m, rank, windows, &batch_));
      CopyBatch(inputs[static_cast<size_t>(m)], /*slot=*/0);
      RETURN_IF_ERROR(s.compute().Synchronize());  // before the slot is filled again
    }
    s.model->BeginStep(inputs, batch_.global_valid_tokens, s.compute());
    const parallel::PipelineRun& run =
        std::exchange(evaluated_, true) ? s.evaluation : s.first_evaluation;
    RETURN_IF_ERROR(parallel::RunSchedule(run, s.channels.get(), *s.model, *this, s.compute()));
    const kernels::TensorView losses = s.step_sums.Slice(0, 0, StepSums::kLosses);
    kernels::CopyAsync(losses, s.model->facts().losses, s.compute());
    RETURN_IF_ERROR(parallel::AllReduce(losses, parallel::ReduceOp::kSum,
                                        s.mesh->Group(Axis::kWorld), s.compute()));
    kernels::CopyAsync(s.host_sums.data(), losses.data, losses.bytes(), s.compute());
    RETURN_IF_ERROR(s.compute().Synchronize());
    sum += static_cast<const double*>(s.host_sums.data())[0];
    ledger_->Heartbeat();
    if (options_.progress != nullptr) {
      options_.progress->RoundEnded(kernels::MonotonicNs() - begin_ns);
    }
  }
  return sum;
}

absl::Status Trainer::EvaluateAt(int64_t step) {
  ledger_->Enter(State::kEval);
  ASSIGN_OR_RETURN(result_.validation_loss, Evaluate());
  if (metrics_ != nullptr) {
    metrics_->Evaluation({.step = step,
                          .validation_loss = result_.validation_loss,
                          .unigram_entropy = result_.unigram_entropy,
                          .attempt = options_.attempt});
  }
  return absl::OkStatus();
}

bool Trainer::OverTime() const {
  const double limit = job_.job.train().max_seconds();
  return limit > 0 && static_cast<double>(kernels::MonotonicNs() - train_start_ns_) * 1e-9 >= limit;
}

}  // namespace muster::runtime
