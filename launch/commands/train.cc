#include "launch/commands/train.h"

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "kernels/ops/device_opening.h"
#include "launch/device_queues.h"
#include "launch/exit_codes.h"
#include "launch/help.h"
#include "launch/job_options.h"
#include "launch/rank_env.h"
#include "launch/rank_log.h"
#include "launch/rank_pulse.h"
#include "parallel/comm/collective_log.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/fault/deadlines.h"
#include "runtime/goodput/rank_progress.h"
#include "runtime/job/config.h"
#include "runtime/job/fault_plan.h"
#include "runtime/job/run_directory.h"
#include "runtime/train/start_times.h"
#include "runtime/train/trainer.h"

namespace muster::launch {
namespace {

// Set by SIGTERM and SIGUSR1: schedulers announce the end of an allocation with them.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// A thread of its own waits for them, and all other threads, which inherit the mask, never see
// them: a handler on a compute thread's stack corrupted oneDNN's generated code, which keeps data
// below the stack pointer. Call it before any other thread starts.
void CatchStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    int signal = 0;
    while (sigwait(&signals, &signal) == 0) stop_requested.store(true);
  }).detach();
}

std::string Summary(const runtime::ResolvedJob& job, const runtime::Trainer& trainer,
                    const runtime::RunDirectory& directory) {
  const models::ModelCost& cost = trainer.state().cost;
  return absl::StrFormat(
      "run        %s, attempt %d, from step %d\n"
      "mesh       %s, %d ranks on %s\n"
      "model      %.2f M parameters (%.2f M active), %.1f MFLOP/token (causal), %.1f (full)\n"
      "batch      %d sequences of %d tokens: %d ranks x %d microbatches x %d\n"
      "memory     %.1f MiB a rank\n",
      directory.path, directory.attempt, trainer.result().steps + 1, job.mesh.ToString(),
      job.mesh.world_size(), Name(trainer.state().device),
      static_cast<double>(cost.parameters) * 1e-6,
      static_cast<double>(cost.active_parameters) * 1e-6, cost.flops_per_token() * 1e-6,
      cost.flops_per_token_full() * 1e-6, job.job.train().global_batch_sequences(),
      job.sequence_length, job.mesh.dp, job.job.schedule().microbatches(), job.microbatch_sequences,
      static_cast<double>(trainer.state().arena.bytes()) / 1048576.0);
}

std::string Conclusion(const runtime::Trainer& trainer) {
  const runtime::TrainResult& result = trainer.result();
  const bool any = trainer.last_step().step > 0;  // else a run that was done was started again
  std::string text =
      any ? absl::StrFormat("trained    %d steps, last loss %.4f\n", result.steps,
                            trainer.last_step().loss)
          : absl::StrFormat("trained    %d steps before; nothing was left to do\n", result.steps);
  if (std::isfinite(result.validation_loss)) {
    text += absl::StrFormat(
        "validation loss %.4f nats/token; unigram entropy of the data %.4f (%+.1f %%)\n",
        result.validation_loss, result.unigram_entropy,
        100.0 * (result.validation_loss / result.unigram_entropy - 1.0));
  }
  return text;
}

// What this rank waits for, for its supervisor: "all_reduce world #812".
std::string Doing(const parallel::CollectiveLog& log) {
  using State = parallel::CollectiveEntry::State;
  for (const parallel::CollectiveEntry& entry : log.Entries()) {
    if (entry.state != State::kEnqueued && entry.state != State::kStarted) continue;
    return absl::StrFormat("%s %s #%d", Name(entry.kind), entry.group, entry.sequence);
  }
  return "";
}

// This rank's last calls, for a supervisor that takes the job for hung. A process that was stopped
// and is woken up to be ended comes too late: it counts as silent.
void WriteCalls(parallel::World& world, const std::string& directory) {
  std::error_code error;
  if (std::filesystem::exists(directory + "/report.txt", error)) return;
  const absl::Status status = parallel::WriteRecord(
      directory,
      parallel::RecordNow(world.rank(), world.size(), world.host(), world.deadline(), world.log()));
  if (!status.ok()) kernels::Log(kernels::Severity::kWarning, std::string(status.message()));
}

class TrainCommand : public Command {
 public:
  CommandText text() const override {
    return {"train", "train a job: one rank; alone, or under mpirun or srun",
            "Writes the run directory: resolved config, metrics.jsonl, TensorBoard events, ledger, "
            "logs, checkpoints, final weights. Started again with the same --run it goes on where "
            "it was. SIGTERM or SIGUSR1 to any rank: it saves after the step and ends with 75.",
            "mpirun -np 4 muster train configs/jobs/tiny-moe.textproto --set mesh.ep=2 --run "
            "runs/try"};
  }
  void Declare(CLI::App& app) override {
    AddJobOptions(app, &options_);
    app.add_option("--run", directory_.path, "the run directory (default: runs/<name>-<time>)")
        ->type_name("DIR");
    AddResumeOption(app, &resume_);
  }

  int Run(Console console) override {
    const int64_t start_ns = kernels::MonotonicNs();
    start_.Enter("runtime");
    directory_.resume = resume_ == "auto"    ? runtime::ResumeMode::kAuto
                        : resume_ == "never" ? runtime::ResumeMode::kNever
                                             : runtime::ResumeMode::kFrom;
    directory_.start_from = directory_.resume == runtime::ResumeMode::kFrom ? resume_ : "";
    const absl::StatusOr<RankEnv> env = ReadRankEnv(CurrentEnvironment());
    if (!env.ok()) {
      console.err << "muster train: " << env.status().message() << "\n";
      return kExitUsage;
    }
    runtime::ResolvedJob job;
    if (!Load(*env, {}, &job, console)) return kExitUsage;
    const auto& plans = job.job.faults().plan();
    const auto planned = runtime::PlannedOverrides({plans.begin(), plans.end()}, env->rank);
    if (!planned.empty() && !Load(*env, planned, &job, console)) return kExitUsage;
    const auto start = SupervisedStartOf(CurrentEnvironment());
    if (!start.ok()) {
      console.err << "muster train: " << start.status().message() << "\n";
      return kExitUsage;
    }
    directory_.start = *start;
    scheduler_ = env->scheduler;
    const absl::Status queues = CheckDeviceQueues(job, CurrentEnvironment());
    if (!queues.ok()) {
      console.err << "muster train: " << queues.message() << "\n";
      return kExitUsage;
    }
    CatchStopSignals();
    progress_.Entered(runtime::State::kInitRuntime);
    auto pulse = StartPulse(CurrentEnvironment(), *env,
                            runtime::DeadlinesOf(job.job.communication()), &progress_);
    if (!pulse.ok()) {
      console.err << "muster train: " << pulse.status().message() << "\n";
      return kExitFailure;
    }
    pulse_ = *std::move(pulse);
    const int code = RunSupervised(job, start_ns, console);
    pulse_->Leave(code);
    return code;
  }

 private:
  bool Load(const RankEnv& env, const std::vector<std::string>& planned, runtime::ResolvedJob* job,
            Console console) const {
    std::vector<std::string> overrides = options_.overrides;
    overrides.insert(overrides.end(), planned.begin(), planned.end());
    std::vector<runtime::ConfigProblem> problems;
    if (runtime::LoadJob(options_.config, overrides, env.size, job, &problems)) return true;
    if (env.rank == 0 || !planned.empty()) {
      console.err << runtime::Describe(problems, options_.config);
    }
    return false;
  }

  int RunSupervised(const runtime::ResolvedJob& job, int64_t start_ns, Console console) {
    auto world = parallel::World::Create(WorldOptionsOf(job.job.communication()));
    if (!world.ok()) {
      console.err << "muster train: " << world.status().message() << "\n";
      return kExitFailure;
    }
    // Beside what ranks agree on; MPI's start, which changes the environment, is over.
    opening_.emplace(job.job.device() == runtime::CUDA
                         ? kernels::Device{kernels::DeviceType::kCuda, (*world)->local_rank()}
                         : kernels::Device{});
    runtime::RankDeadline deadline(runtime::DeadlinesOf(job.job.communication()));
    progress_.Follow([&](const runtime::ProgressFacts& facts) {
      (*world)->SetDeadline(std::chrono::milliseconds(deadline.After(facts) / 1'000'000));
    });
    pulse_->SetDoing([&log = (*world)->log()] { return Doing(log); });
    const int code = RunOnWorld(job, **world, start_ns, console);
    pulse_->SetDoing(nullptr);
    pulse_->SetEvidence(nullptr);
    progress_.Follow(nullptr);
    return code;
  }

  int RunOnWorld(const runtime::ResolvedJob& job, parallel::World& world, int64_t start_ns,
                 Console console) {
    kernels::SetLogRank(world.rank());
    const absl::StatusOr<runtime::RunDirectory> directory = Prepare(job, world);
    if (!directory.ok()) {  // equal on all ranks
      if (world.rank() == 0)
        console.err << "muster train: " << directory.status().message() << "\n";
      return ExitCodeOfStart(directory.status());
    }
    start_.Enter("device");
    opening_->Wait();  // the log forks
    start_.Enter("runtime");
    auto log = RankLog::Open(directory->path, world.rank());
    const std::string hang = parallel::HangDirectory(directory->path, directory->attempt);
    world.KeepHangEvidence(hang);
    pulse_->SetEvidence([&world, hang] { WriteCalls(world, hang); });
    const absl::StatusOr<runtime::TrainEnd> end =
        log.ok() ? TrainIn(job, world, *directory, start_ns, console)
                 : absl::StatusOr<runtime::TrainEnd>(log.status());
    if (!end.ok()) {
      kernels::Log(kernels::Severity::kError, std::string(end.status().message()));
      (void)world.HangEvidence();  // waits until it is said
      if (log.ok()) log->reset();  // its file is complete before everything ends
      const int code = ExitCodeOf(end.status());
      pulse_->Leave(code);
      world.Abort(code);  // the other ranks would wait for this one
    }
    if (*end == runtime::TrainEnd::kNotSaved) return kExitNotSaved;
    return *end == runtime::TrainEnd::kStopped ? kExitRequeue : kExitDone;
  }

  absl::StatusOr<runtime::RunDirectory> Prepare(const runtime::ResolvedJob& job,
                                                parallel::World& world) const {
    RETURN_IF_ERROR(runtime::CheckAgreement(job, VersionText(), world));
    return runtime::PrepareRunDirectory(directory_, job, world);
  }

  absl::StatusOr<runtime::TrainEnd> TrainIn(const runtime::ResolvedJob& job, parallel::World& world,
                                            const runtime::RunDirectory& directory,
                                            int64_t start_ns, Console console) {
    ASSIGN_OR_RETURN(std::unique_ptr<runtime::Trainer> trainer,
                     runtime::Trainer::Create(job, world,
                                              {.run_directory = directory.path,
                                               .attempt = directory.attempt,
                                               .start_from = directory.start_from,
                                               .process_start_ns = start_ns,
                                               .scheduler = scheduler_,
                                               .stop = &stop_requested,
                                               .start = &start_,
                                               .progress = &progress_}));
    const bool speaks = world.rank() == 0;
    if (speaks) console.out << Summary(job, *trainer, directory) << std::flush;
    const absl::StatusOr<runtime::TrainEnd> end = trainer->Run();
    if (!end.ok()) {
      // Messages that other ranks have not taken yet may still be read from its memory, and be
      // written there, until the process ends: by Abort, behind this error.
      trainer->GiveUp();
      given_up_ = std::move(trainer);
      return end.status();
    }
    if (speaks) console.out << Conclusion(*trainer) << std::flush;
    return *end;
  }

  JobOptions options_;
  runtime::RunDirectoryOptions directory_;
  std::string resume_ = "auto";
  runtime::SchedulerJob scheduler_;
  runtime::StartTimes start_{runtime::ProcessStartNs()};
  std::optional<kernels::DeviceOpening> opening_;
  runtime::RankProgress progress_;
  std::unique_ptr<runtime::Pulse> pulse_;
  std::unique_ptr<runtime::Trainer> given_up_;
};

}  // namespace

std::unique_ptr<Command> MakeTrain() { return std::make_unique<TrainCommand>(); }

}  // namespace muster::launch
