#include "runtime/train/run_checkpoints.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/agreement.h"
#include "runtime/checkpoint/memory_store.h"
#include "runtime/checkpoint/not_saved.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/seconds_since.h"
#include "runtime/job/atomic_file.h"
#include "runtime/job/run_lock.h"
#include "runtime/train/checkpoint_pieces.h"
#include "runtime/train/roll_back.h"

namespace muster::runtime {
namespace {

// In front of each try to save the last state. Short, since an allocation may be about to end.
constexpr int64_t kLastSavePausesNs[] = {0, 1'000'000'000, 2'000'000'000};

}  // namespace

absl::StatusOr<std::unique_ptr<RunCheckpoints>> RunCheckpoints::Create(const ResolvedJob& job,
                                                                       parallel::World& world,
                                                                       Options options,
                                                                       TrainingState& state,
                                                                       LedgerWriter& ledger) {
  std::unique_ptr<RunCheckpoints> checkpoints(
      new RunCheckpoints(job, world, std::move(options), state, ledger));
  RETURN_IF_ERROR(checkpoints->Restore());
  if (job.job.checkpoint().every_steps() > 0) RETURN_IF_ERROR(checkpoints->MakeSaver());
  if (checkpoints->site_ != nullptr) RETURN_IF_ERROR(checkpoints->MakeMemorySaver());
  return checkpoints;
}

absl::StatusOr<std::optional<RestoredState>> RunCheckpoints::FindState(std::string* where) {
  *where = options_.run_directory;
  ASSIGN_OR_RETURN(const std::optional<RestoredState> own,
                   site_ == nullptr ? FromDisk(SourceOf(*where)) : NewestOfTiers(where));
  if (own || options_.start_from.empty()) return own;
  return FromOrigin(where);
}

absl::StatusOr<std::optional<RestoredState>> RunCheckpoints::FromDisk(const RestoreSource& source) {
  return runtime::Restore(source, WantedPieces(state_), world_, state_.compute());
}

absl::StatusOr<std::optional<RestoredState>> RunCheckpoints::FromMemory(
    const MemoryCheckpoint& snapshot) {
  ASSIGN_OR_RETURN(const RestoreSource source, PutTogether(snapshot, *site_));
  return FromDisk(source);
}

// Of start_from. Its run may go on: from now on <run>/origin names what was found, so that a
// restart before the first checkpoint of this run begins from the same state.
absl::StatusOr<std::optional<RestoredState>> RunCheckpoints::FromOrigin(std::string* where) {
  *where = options_.start_from;
  const RestoreSource source = SourceOf(*where);
  absl::StatusOr<std::optional<RestoredState>> found = FromDisk(source);
  if (absl::IsNotFound(found.status())) {
    return kernels::Annotate(found.status(), options_.run_directory +
                                                 " begins from a checkpoint that is gone; begin "
                                                 "another run, from one that is there (--resume)");
  }
  RETURN_IF_ERROR(found.status());
  if (!*found) {
    return absl::NotFoundError("wanted a checkpoint to start from in " + *where + ", found none");
  }
  if (source.step >= 0) return found;
  absl::Status pinned;
  if (world_.rank() == 0) {
    pinned = WriteFileAtomically(options_.run_directory + "/origin",
                                 absl::StrCat(source.directory, "/", (*found)->name, "\n"));
  }
  ASSIGN_OR_RETURN(pinned, Agree(pinned, world_));
  RETURN_IF_ERROR(pinned);
  return found;
}

// Snapshots in memory and checkpoints on the disk as one list, the newest first; of one step the
// one in memory. No snapshot goes before it is known that something good is left.
absl::StatusOr<std::optional<RestoredState>> RunCheckpoints::NewestOfTiers(std::string* where) {
  const std::string directory = SourceOf(options_.run_directory).directory;
  ASSIGN_OR_RETURN(const std::vector<MemoryCheckpoint> in_memory, FindInMemory(*site_));
  ASSIGN_OR_RETURN(const std::vector<int64_t> on_disk, AgreedCheckpoints(directory, world_));
  absl::Status passed_by;
  auto snapshot = in_memory.begin();
  auto step = on_disk.begin();
  while (snapshot != in_memory.end() || step != on_disk.end()) {
    const bool memory =
        snapshot != in_memory.end() && (step == on_disk.end() || snapshot->step >= *step);
    const std::string name = CheckpointName(memory ? snapshot->step : *step);
    const absl::StatusOr<std::optional<RestoredState>> found =
        memory ? FromMemory(*snapshot++) : FromDisk({.directory = directory, .step = *step++});
    if (found.ok()) {
      if (memory) *where = "the hosts' memory";
      RETURN_IF_ERROR(KeepOnlyInMemory(memory ? (*found)->facts.step : -1, *site_));
      return found;
    }
    const bool no_room = memory && absl::IsResourceExhausted(found.status());
    if (!absl::IsDataLoss(found.status()) && !no_room) return found.status();
    std::string why(found.status().message());  // of the disk's it has the name, and is in the log
    if (memory) {
      why = absl::StrCat(name, " in memory is passed by: ", why);
      if (world_.rank() == 0) kernels::Log(kernels::Severity::kError, why);
    }
    passed_by = absl::Status(found.status().code(), absl::StrCat(passed_by.message(), "\n  ", why));
  }
  if (!passed_by.ok()) {
    return kernels::Annotate(passed_by, absl::StrCat("no good checkpoint is left in ", directory,
                                                     " or in the hosts' memory"));
  }
  RETURN_IF_ERROR(KeepOnlyInMemory(-1, *site_));  // parts of snapshots
  return std::optional<RestoredState>();
}

absl::Status RunCheckpoints::Restore() {
  const int64_t begin_ns = kernels::MonotonicNs();
  absl::Status cleared;
  if (world_.rank() == 0) {
    // From here on a save of an earlier attempt can no longer become visible.
    const std::string& run = options_.run_directory;
    cleared = RemoveLeftovers(Disk(), run + "/checkpoints", options_.attempt);
    if (cleared.ok()) cleared = RemoveLeftoversOf(Disk(), run, "weights", options_.attempt);
  }
  ASSIGN_OR_RETURN(const absl::Status agreed, Agree(cleared, world_));
  RETURN_IF_ERROR(agreed);
  const Checkpoint& config = job_.job.checkpoint();
  if (config.memory_every_steps() > 0) {
    MemorySiteOptions memory{
        .run_directory = options_.run_directory,
        .root = config.memory_directory(),
        .attempt = options_.attempt,
        .test_hosts = config.memory_test_hosts(),
        .fence = [this] { return CheckEpoch(options_.run_directory, options_.attempt); },
        .hook = options_.memory_hook};
    ASSIGN_OR_RETURN(site_, MemorySite::Open(memory, world_));
  }
  std::string where;
  ASSIGN_OR_RETURN(const std::optional<RestoredState> found, FindState(&where));
  if (found) {
    restored_ = found->facts;
    const int64_t batch = job_.job.train().global_batch_sequences();
    if (restored_.samples != restored_.step * batch) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "%s of %s has consumed %d sequences in %d steps: the data would not go on where it "
          "stopped with train.global_batch_sequences %d; use %d",
          found->name, where, restored_.samples, restored_.step, batch,
          restored_.samples / std::max<int64_t>(restored_.step, 1)));
    }
    last_on_disk_ = where == options_.run_directory ? restored_.step : 0;
    if (world_.rank() == 0) {
      kernels::Log(
          kernels::Severity::kInfo,
          absl::StrFormat("attempt %d goes on at step %d from %s of %s, saved by attempt "
                          "%d on %s: %.1f MB on this rank in %.2f s",
                          options_.attempt, restored_.step + 1, found->name, where,
                          restored_.attempt, restored_.mesh,
                          static_cast<double>(found->bytes) * 1e-6, SecondsSince(begin_ns)));
    }
  } else if (options_.attempt > 0 && world_.rank() == 0) {
    kernels::Log(kernels::Severity::kInfo,
                 absl::StrFormat("attempt %d begins at step 1: %s has no checkpoint",
                                 options_.attempt, options_.run_directory));
  }
  ledger_.Checkpoint(EventOf(CheckpointAct::kRestore, restored_.step, found ? found->bytes : 0));
  return absl::OkStatus();
}

CheckpointEvent RunCheckpoints::EventOf(CheckpointAct act, int64_t step, int64_t bytes) const {
  const CheckpointId restored =
      restored_.step == 0 ? CheckpointId{} : CheckpointId{restored_.step, restored_.attempt};
  if (act == CheckpointAct::kRestore) return {.act = act, .id = restored, .bytes = bytes};
  return {act, {step, options_.attempt}, restored, bytes};
}

absl::Status RunCheckpoints::MakeMemorySaver() {
  std::vector<SavedPiece> pieces = SavedPieces(state_);
  int64_t bytes = 0;
  for (const SavedPiece& piece : pieces) bytes += piece.data.bytes();
  RETURN_IF_ERROR(site_->CheckRoom(bytes));
  const Checkpoint& config = job_.job.checkpoint();
  CheckpointOptions options{
      .every_steps = config.memory_every_steps(),
      .asynchronous = config.asynchronous(),
      .overlap_copy = true,
      .ended = [this](const SaveReport& report) { MemorySaveEnded(report); },
      .put_off =
          [this](int64_t step, const CheckpointFacts& in_flight, double seconds) {
            if (!std::exchange(memory_late_, true)) {
              PutOff("memory: ", step, in_flight, seconds);
            }
          },
      .waiting = [this] { ledger_.Heartbeat(); }};
  ASSIGN_OR_RETURN(memory_saver_,
                   Checkpointer::CreateWith(MakeMemoryStore(*site_), std::move(pieces), world_,
                                            state_.compute(), std::move(options)));
  return absl::OkStatus();
}

absl::Status RunCheckpoints::MakeSaver() {
  std::vector<SavedPiece> pieces = SavedPieces(state_);
  snapshot_bytes_ = 0;
  for (const SavedPiece& piece : pieces) snapshot_bytes_ += piece.data.bytes();
  const Checkpoint& config = job_.job.checkpoint();
  CheckpointOptions options{
      .every_steps = config.every_steps(),
      .keep = config.keep(),
      .asynchronous = config.asynchronous(),
      .overlap_copy = true,
      .fence = [this] { return CheckEpoch(options_.run_directory, options_.attempt); },
      .snapshot_taken =
          [this](const CheckpointFacts& facts) {
            ledger_.Checkpoint(EventOf(CheckpointAct::kSnapshot, facts.step, snapshot_bytes_));
          },
      .ended = [this](const SaveReport& report) { SaveEnded(report); },
      .put_off =
          [this](int64_t step, const CheckpointFacts& in_flight, double seconds) {
            ledger_.Checkpoint(EventOf(CheckpointAct::kPutOff, step, 0));
            PutOff("", step, in_flight, seconds);
          },
      .waiting = [this] { ledger_.Heartbeat(); },
      .hook = options_.hook};
  ASSIGN_OR_RETURN(saver_, Checkpointer::Create(options_.run_directory, std::move(pieces), world_,
                                                state_.compute(), std::move(options)));
  return absl::OkStatus();
}

CheckpointFacts RunCheckpoints::FactsOf(int64_t step, int64_t skipped_steps) const {
  CheckpointFacts facts{.step = step,
                        .skipped_steps = skipped_steps,
                        .samples = step * job_.job.train().global_batch_sequences(),
                        .seed = job_.job.train().seed(),
                        .config_hash = job_.hash,
                        .attempt = options_.attempt,
                        .mesh = job_.mesh.ToString()};
  if (restored_.step > 0) facts.parent = CheckpointName(restored_.step);
  return facts;
}

absl::Status RunCheckpoints::AfterStep(int64_t step, int64_t skipped_steps) {
  const bool to_memory = memory_saver_ != nullptr && memory_saver_->Begins(step);
  const bool to_disk = saver_ != nullptr && saver_->Begins(step);
  if (!to_memory && !to_disk) return absl::OkStatus();
  ledger_.Enter(State::kCheckpointStall);
  RETURN_IF_ERROR(BeforeSave(step));
  if (to_memory) {
    RETURN_IF_ERROR(memory_saver_->MaybeSave(FactsOf(step, skipped_steps)).status());
    RETURN_IF_ERROR(CheckLast(*memory_saver_));
  }
  if (!to_disk) return absl::OkStatus();
  RETURN_IF_ERROR(saver_->MaybeSave(FactsOf(step, skipped_steps)).status());
  return CheckLast(*saver_);
}

void RunCheckpoints::Mark(int64_t step) {
  if (IsDueInMemory(step)) memory_saver_->Mark();
  if (IsDueOnDisk(step)) saver_->Mark();
}

// The disk's text, its size in front, then that of the memory; nothing if neither says anything.
std::string RunCheckpoints::Progress() {
  const std::string disk = saver_ == nullptr ? "" : saver_->Progress();
  const std::string memory = memory_saver_ == nullptr ? "" : memory_saver_->Progress();
  return disk.empty() && memory.empty() ? "" : absl::StrCat(disk.size(), ":", disk, memory);
}

absl::Status RunCheckpoints::Hear(const std::vector<std::string>& all) {
  // Of this rank alone, and better told now than at the first save.
  if (saver_ != nullptr) RETURN_IF_ERROR(saver_->MemoryStatus());
  if (memory_saver_ != nullptr) RETURN_IF_ERROR(memory_saver_->MemoryStatus());
  std::vector<std::string> disk, memory;
  for (const std::string& text : all) {
    size_t size = 0, begin = 0;
    if (!text.empty()) {
      begin = text.find(':') + 1;
      MUSTER_CHECK(absl::SimpleAtoi(text.substr(0, begin - 1), &size)) << text;
    }
    disk.push_back(text.substr(begin, size));
    memory.push_back(text.substr(begin + size));
  }
  if (memory_saver_ != nullptr) {
    RETURN_IF_ERROR(memory_saver_->Hear(memory));
    RETURN_IF_ERROR(CheckLast(*memory_saver_));
  }
  if (saver_ == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(saver_->Hear(disk));
  return CheckLast(*saver_);
}

void RunCheckpoints::PrepareMemory() {
  if (saver_ != nullptr) saver_->PrepareMemory();
  if (memory_saver_ != nullptr) memory_saver_->PrepareMemory();
}

void RunCheckpoints::BeforeUpdate() {
  if (saver_ != nullptr) saver_->BeforeUpdate();
  if (memory_saver_ != nullptr) memory_saver_->BeforeUpdate();
}

absl::Status RunCheckpoints::AtEnd(int64_t step, int64_t skipped_steps, bool stopped) {
  if (memory_saver_ != nullptr) {
    ledger_.Enter(State::kCheckpointStall);
    RETURN_IF_ERROR(memory_saver_->Finish());
    RETURN_IF_ERROR(CheckLast(*memory_saver_));
  }
  if (saver_ == nullptr && !stopped) return absl::OkStatus();
  ledger_.Enter(State::kCheckpointStall);
  if (saver_ == nullptr) RETURN_IF_ERROR(MakeSaver());
  RETURN_IF_ERROR(saver_->Finish());
  RETURN_IF_ERROR(CheckLast(*saver_));
  const int64_t newest = std::max(saver_->committed_step(), last_on_disk_);
  if (step <= newest) return absl::OkStatus();
  RETURN_IF_ERROR(BeforeSave(step));
  for (const int64_t pause_ns : kLastSavePausesNs) {
    for (const int64_t end = kernels::MonotonicNs() + pause_ns; kernels::MonotonicNs() < end;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ledger_.Heartbeat();
    }
    // Rank 0 clears what a failed save has left, whose name the next one may have.
    RETURN_IF_ERROR(world_.GatherText("").status());
    RETURN_IF_ERROR(SaveLast(step, skipped_steps));
    if (saver_->last().status.ok()) return absl::OkStatus();
  }
  const int64_t from =
      std::max(newest, memory_saver_ == nullptr ? -1 : memory_saver_->committed_step());
  return NotSavedError(kernels::Annotate(
      saver_->last().status,
      absl::StrCat("the state after step ", step, " is not saved; started again, the run goes on ",
                   from > 0 ? absl::StrCat("from ", CheckpointName(from)) : "from its start")));
}

absl::Status RunCheckpoints::SaveLast(int64_t step, int64_t skipped_steps) {
  RETURN_IF_ERROR(saver_->Save(FactsOf(step, skipped_steps)));
  RETURN_IF_ERROR(saver_->Finish());
  return CheckLast(*saver_);
}

absl::Status RunCheckpoints::BeforeSave(int64_t step) const {
  return options_.before_save ? options_.before_save(step) : absl::OkStatus();
}

// Of the last save that ended, equal on all ranks.
absl::Status RunCheckpoints::CheckLast(const Checkpointer& saver) {
  const absl::Status& status = saver.last().status;
  if (!absl::IsOutOfRange(status)) return absl::OkStatus();
  return RollBackError(
      absl::StrCat("after step ", saver.last().facts.step, ", ", std::string(status.message())));
}

absl::Status RunCheckpoints::Done() {
  // Without a newer state on the disk what is in memory is what a run that was stopped goes on
  // from.
  const bool failed = saver_ != nullptr && !saver_->last().status.ok();
  if (site_ == nullptr || failed) return absl::OkStatus();
  memory_saver_.reset();
  const absl::Status removed = site_->Remove();
  if (!removed.ok() && world_.rank() == 0) {
    kernels::Log(kernels::Severity::kWarning, std::string(removed.message()));
  }
  return absl::OkStatus();
}

// On rank 0. Of snapshots in memory only the first one is told of.
void RunCheckpoints::PutOff(const char* where, int64_t step, const CheckpointFacts& in_flight,
                            double seconds) const {
  kernels::Log(
      kernels::Severity::kWarning,
      absl::StrFormat("%s%s is due, but %s is still being written, after %.1f s: training goes on "
                      "and saves at the first step that finds it ended",
                      where, CheckpointName(step), CheckpointName(in_flight.step), seconds));
}

// On rank 0. Snapshots in memory come often, so only the first one is told of.
void RunCheckpoints::MemorySaveEnded(const SaveReport& report) {
  if (!report.status.ok()) {
    kernels::Log(kernels::Severity::kError,
                 absl::StrCat(CheckpointName(report.facts.step),
                              " is not in memory; training goes on, the snapshot before it stays: ",
                              report.status.message()));
    return;
  }
  if (std::exchange(memory_announced_, true)) return;
  const int hosts = site_->hosts().num_hosts();
  kernels::Log(kernels::Severity::kInfo,
               absl::StrFormat(
                   "%s is in memory: %.1f MB in %.3f s on %d host%s; training stood still for %.2f "
                   "ms; further ones follow every %d steps",
                   CheckpointName(report.facts.step),
                   static_cast<double>(report.total_bytes) * 1e-6, report.commit_seconds, hosts,
                   hosts == 1 ? ", without second copies" : "s, each shard on two of them",
                   report.stall_seconds * 1e3, job_.job.checkpoint().memory_every_steps()));
}

// On rank 0.
void RunCheckpoints::SaveEnded(const SaveReport& report) {
  const bool committed = report.status.ok();
  ledger_.Checkpoint(EventOf(committed ? CheckpointAct::kCommit : CheckpointAct::kFail,
                             report.facts.step, report.total_bytes));
  if (!committed) {
    kernels::Log(kernels::Severity::kError,
                 absl::StrCat(CheckpointName(report.facts.step), " failed; training goes on, the ",
                              "checkpoints before it stay: ", report.status.message()));
    return;
  }
  const double megabytes = static_cast<double>(report.total_bytes) * 1e-6;
  kernels::Log(kernels::Severity::kInfo,
               absl::StrFormat(
                   "%s committed: %.1f MB in %.3f s, %.0f MB/s; training stood still for %.2f "
                   "ms%s",
                   CheckpointName(report.facts.step), megabytes, report.commit_seconds,
                   megabytes / std::max(report.commit_seconds, 1e-9), report.stall_seconds * 1e3,
                   report.wait_seconds < 1e-3
                       ? ""
                       : absl::StrFormat(", and %.2f s for the save before", report.wait_seconds)));
}

}  // namespace muster::runtime
