#include "runtime/goodput/ledger.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
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
  FileLedgerWriter(int file, std::string path, RankProgress* progress,
                   std::chrono::milliseconds sync_every)
      : file_(file), path_(std::move(path)), progress_(progress) {
    sync_.emplace([this] { Sync(); }, sync_every);
  }
  FileLedgerWriter(const FileLedgerWriter&) = delete;
  FileLedgerWriter& operator=(const FileLedgerWriter&) = delete;
  ~FileLedgerWriter() override {
    if (progress_ != nullptr) progress_->Attach(nullptr);
    if (!ended_) End(kNoExitCode);
    sync_.reset();
    close(file_);
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
  }

  absl::Status status() const override {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  int64_t synced_ns() const override { return synced_ns_.load(); }

 private:
  // Without the lock: whoever writes meanwhile does not wait for the disk.
  void Sync() {
    const int64_t begin = MonotonicNs();
    if (fdatasync(file_) == 0) {
      synced_ns_.store(begin);
    } else if (!told_sync_error_.exchange(true)) {
      kernels::Log(kernels::Severity::kWarning,
                   "cannot sync the goodput ledger " + path_ + ": " + std::strerror(errno));
    }
  }

  void Append(RecordBuilder& record) {
    const std::string_view bytes = record.Finish();
    ssize_t written;
    do {
      written = write(file_, bytes.data(), bytes.size());
    } while (written < 0 && errno == EINTR);
    if (written == static_cast<ssize_t>(bytes.size())) {
      file_bytes_ += written;
      last_record_ns_ = record.monotonic_ns();
      sync_->Changed();
      return;
    }
    const std::string error = written < 0 ? std::strerror(errno)
                                          : std::to_string(written) + " bytes of " +
                                                std::to_string(bytes.size()) + " were taken";
    // A torn record would hide what is appended after it.
    const bool restored = written <= 0 || ftruncate(file_, file_bytes_) == 0;
    if (!status_.ok()) return;
    status_ = absl::UnavailableError(
        "cannot append to the goodput ledger " + path_ + ": " + error +
        (restored ? "" : "; a torn record stays in it") +
        "; training goes on, but the report will lack this rank's time from here");
    kernels::Log(kernels::Severity::kError, std::string(status_.message()));
  }
  void Append(RecordBuilder&& record) { Append(record); }

  const int file_;
  const std::string path_;
  RankProgress* const progress_;  // may be null
  mutable std::mutex mutex_;      // the trainer's thread writes; a watchdog may beat
  absl::Status status_;
  off_t file_bytes_ = 0;
  int64_t last_record_ns_ = 0;
  bool ended_ = false, in_step_ = false;
  int64_t step_ = 0, step_begin_ns_ = 0;
  std::atomic<int64_t> synced_ns_{0};
  std::atomic<bool> told_sync_error_{false};
  std::optional<BackgroundSync> sync_;  // ends before the file is closed
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
    return absl::PermissionDeniedError("cannot make the ledger's directory " + directory + ": " +
                                       error.message() + "; choose another run directory (--run)");
  }
  const std::string path = directory + "/" + LedgerFileName(begin.rank);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 && errno == EEXIST) {
    return absl::AlreadyExistsError("the ledger " + path +
                                    " exists: another process runs attempt " +
                                    std::to_string(begin.attempt) +
                                    ", or its number was not counted up; use a new run directory");
  }
  if (file < 0) {
    return absl::PermissionDeniedError("cannot create the ledger " + path + ": " +
                                       std::strerror(errno));
  }
  auto writer = std::make_unique<FileLedgerWriter>(file, path, progress, sync_every);
  writer->Begin(begin);
  RETURN_IF_ERROR(writer->status());
  if (progress != nullptr) progress->Attach(writer.get());
  return std::unique_ptr<LedgerWriter>(std::move(writer));
}

}  // namespace muster::runtime
