#include "runtime/goodput/ledger.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/goodput/background_sync.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/rank_progress.h"
#include "runtime/job/append_file.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

using kernels::MonotonicNs;

// A beat is written only if the last record is older, so that a caller may beat as often as it
// likes and still leave one every 0.5 s.
constexpr int64_t kHeartbeatSpacingNs = 250'000'000;

int64_t RealtimeNs() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class FileLedgerWriter final : public LedgerWriter {
 public:
  FileLedgerWriter(std::unique_ptr<AppendFile> file, RankProgress* progress,
                   std::chrono::milliseconds sync_every)
      : file_(std::move(file)), progress_(progress) {
    sync_.emplace([this] { Sync(); }, sync_every);
  }
  FileLedgerWriter(const FileLedgerWriter&) = delete;
  FileLedgerWriter& operator=(const FileLedgerWriter&) = delete;
  ~FileLedgerWriter() override {
    if (progress_ != nullptr) progress_->Attach(nullptr);
    if (!ended_) End(kNoExitCode);
    sync_.reset();
  }

  void Begin(const AttemptBegin& begin) {
    const std::lock_guard lock(mutex_);
    Append(RecordBuilder(RecordType::kAttemptBegin, MonotonicNs(), RealtimeNs())
               .PutI32(begin.attempt)
               .PutI32(begin.rank)
               .PutI32(begin.world_size)
               .PutF64(begin.peak_flops)
               .PutU64(begin.config_hash)
               .PutI64(begin.process_start_monotonic_ns)
               .PutText(begin.peak_label, kMaxPeakLabelBytes)
               .PutText(begin.host, kMaxHostBytes)
               .PutU64(begin.boot != 0 ? begin.boot : BootId())
               .PutI64(begin.clock.offset_ns)
               .PutI64(begin.clock.uncertainty_ns));
    const SchedulerJob& scheduler = begin.scheduler;
    if (scheduler.id.empty()) return;
    Append(RecordBuilder(RecordType::kScheduler, MonotonicNs(), RealtimeNs())
               .PutText(scheduler.id, kMaxPeakLabelBytes)
               .PutI32(scheduler.restarts)
               .PutI64(scheduler.submitted_s)
               .PutI64(scheduler.started_s));
  }

  int64_t Enter(State state) override {
    MUSTER_CHECK(state != State::kStep) << "a step is entered by StepBegin, which names it";
    const std::lock_guard lock(mutex_);
    const int64_t now = MonotonicNs();
    in_step_ = false;
    Append(RecordBuilder(RecordType::kEnter, now, RealtimeNs()).PutU8(static_cast<uint8_t>(state)));
    if (progress_ != nullptr) progress_->Entered(state);
    return now;
  }

  void StepBegin(int64_t step) override {
    const std::lock_guard lock(mutex_);
    in_step_ = true;
    step_ = step;
    step_begin_ns_ = MonotonicNs();
    Append(RecordBuilder(RecordType::kStepBegin, step_begin_ns_, RealtimeNs()).PutI64(step));
    if (progress_ != nullptr) progress_->StepBegan(step);
  }

  void StepEnded(const StepEnd& end) override {
    const std::lock_guard lock(mutex_);
    MUSTER_CHECK(in_step_ && end.step == step_)
        << "step " << end.step << " ends, but the open step is " << (in_step_ ? step_ : -1);
    const int64_t now = MonotonicNs();
    in_step_ = false;
    RecordBuilder record(RecordType::kStepEnd, now, RealtimeNs());
    record.PutI64(end.step)
        .PutU64(end.loss_bits)
        .PutU64(end.grad_norm_bits)
        .PutF64(end.model_flops)
        .PutI64(end.tokens)
        .PutU8(end.skipped ? 1 : 0)
        .PutU8(parallel::kNumTimeCategories);
    StepEnd tiled = end;
    tiled.time_ns = TileStep(end.time_ns, now - step_begin_ns_);
    for (const int64_t ns : tiled.time_ns) record.PutI64(ns);
    record.PutF64(end.hardware_flops).PutI64(end.first_sequence).PutI64(end.num_sequences);
    Append(record);
    if (progress_ != nullptr) progress_->StepEnded(tiled);
  }

  void Checkpoint(const CheckpointEvent& event) override {
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;  // a writer's thread that runs on while the process ends
      Append(RecordBuilder(RecordType::kCheckpoint, MonotonicNs(), RealtimeNs())
                 .PutU8(static_cast<uint8_t>(event.act))
                 .PutI64(event.id.step)
                 .PutI32(event.id.attempt)
                 .PutI64(event.parent.step)
                 .PutI32(event.parent.attempt)
                 .PutI64(event.bytes));
    }
    // Where the checkpoint outlives the host's power, so shall the story of how it came about.
    if (event.act == CheckpointAct::kCommit) Sync();
  }

  void Skip(int64_t step, std::string_view reason) override {
    const std::lock_guard lock(mutex_);
    Append(RecordBuilder(RecordType::kSkip, MonotonicNs(), RealtimeNs())
               .PutI64(step)
               .PutText(reason, kMaxReasonBytes));
  }

  void Heartbeat() override {
    const std::lock_guard lock(mutex_);
    const int64_t now = MonotonicNs();
    if (ended_ || now - last_record_ns_ < kHeartbeatSpacingNs) return;
    Append(RecordBuilder(RecordType::kHeartbeat, now, RealtimeNs()));
  }

  void End(int exit_code) override {
    const std::lock_guard lock(mutex_);
    MUSTER_CHECK(!ended_) << "an attempt ends once";
    ended_ = true;
    Append(RecordBuilder(RecordType::kEnd, MonotonicNs(), RealtimeNs()).PutI32(exit_code));
    file_->Finish();
  }

  absl::Status status() const override {
    const std::lock_guard lock(mutex_);
    return file_->first_error();
  }

  int64_t num_lost() const override {
    const std::lock_guard lock(mutex_);
    return file_->num_lost();
  }

  int64_t synced_ns() const override { return synced_ns_.load(); }

 private:
  // The disk is waited for without the lock: whoever writes meanwhile goes on.
  void Sync() {
    const int64_t begin = MonotonicNs();
    bool all_written;
    {
      const std::lock_guard lock(mutex_);
      all_written = file_->Flush();
    }
    const absl::Status synced = file_->Sync();
    if (synced.ok() && all_written) synced_ns_.store(begin);
    if (!synced.ok() && !told_sync_error_.exchange(true)) {
      kernels::Log(kernels::Severity::kWarning, std::string(synced.message()));
    }
  }

  void Append(RecordBuilder& record) {
    last_record_ns_ = record.monotonic_ns();
    const int64_t lost = file_->num_lost();
    if (lost > told_lost_) {
      if (!file_->Flush()) return file_->Drop();  // no record stands behind a gap that is not told
      file_->Append(RecordBuilder(RecordType::kLost, record.monotonic_ns(), RealtimeNs())
                        .PutI64(lost - std::exchange(told_lost_, lost))
                        .Finish());
    }
    file_->Append(record.Finish());
    sync_->Changed();
  }
  void Append(RecordBuilder&& record) { Append(record); }

  const std::unique_ptr<AppendFile> file_;
  RankProgress* const progress_;  // may be null
  mutable std::mutex mutex_;      // the trainer's thread writes; a watchdog may beat
  int64_t last_record_ns_ = 0, told_lost_ = 0;
  bool ended_ = false, in_step_ = false;
  int64_t step_ = 0, step_begin_ns_ = 0;
  std::atomic<int64_t> synced_ns_{0};
  std::atomic<bool> told_sync_error_{false};
  std::optional<BackgroundSync> sync_;  // ends first
};

}  // namespace

const char* Name(State state) {
  static constexpr const char* kNames[kNumStates] = {
      "alloc_wait", "launch", "init_runtime",     "init_model", "checkpoint_load", "data_seek",
      "warmup",     "step",   "checkpoint_stall", "eval",       "detect",          "teardown",
      "spare_idle", "drain",  "unknown"};
  const int index = static_cast<int>(state);
  return index < kNumStates ? kNames[index] : "unknown";
}

std::array<int64_t, parallel::kNumTimeCategories> TileStep(
    std::array<int64_t, parallel::kNumTimeCategories> time_ns, int64_t interval_ns) {
  for (int64_t& ns : time_ns) ns = std::max<int64_t>(ns, 0);
  const auto sum = std::accumulate(time_ns.begin(), time_ns.end(), __int128{0});
  if (sum > interval_ns) {
    // The parts were measured on another clock (the device's): shrink all alike.
    for (int64_t& ns : time_ns) ns = static_cast<int64_t>(__int128{ns} * interval_ns / sum);
  }
  time_ns[parallel::kOther] +=
      interval_ns - std::accumulate(time_ns.begin(), time_ns.end(), int64_t{0});
  return time_ns;
}

absl::StatusOr<std::unique_ptr<LedgerWriter>> LedgerWriter::Create(
    const std::string& run_directory, const AttemptBegin& begin, RankProgress* progress,
    std::chrono::milliseconds sync_every) {
  const std::string directory = AttemptDirectory(run_directory, begin.attempt);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return FileError("make the ledger's directory " + directory, error.value());
  }
  const std::string path = directory + "/" + LedgerFileName(begin.rank);
  absl::StatusOr<std::unique_ptr<AppendFile>> file =
      AppendFile::Open(path, AppendFile::Start::kNew);
  if (absl::IsAlreadyExists(file.status())) {
    return absl::AlreadyExistsError("the ledger " + path +
                                    " exists: another process runs attempt " +
                                    std::to_string(begin.attempt) +
                                    ", or its number was not counted up; use a new run directory");
  }
  RETURN_IF_ERROR(file.status());
  auto writer = std::make_unique<FileLedgerWriter>(*std::move(file), progress, sync_every);
  writer->Begin(begin);
  if (progress != nullptr) progress->Attach(writer.get());
  return std::unique_ptr<LedgerWriter>(std::move(writer));
}

}  // namespace muster::runtime
