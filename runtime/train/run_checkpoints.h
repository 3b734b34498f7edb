#pragma once
// A run's checkpoints as its trainer sees them: the state that it goes on from, what it saves on
// the way, to the disk and to the hosts' memory, and their lines in the ledger and the log.
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/checkpoint/checkpointer.h"
#include "runtime/checkpoint/memory_restore.h"
#include "runtime/checkpoint/memory_site.h"
#include "runtime/checkpoint/restore.h"
#include "runtime/goodput/ledger.h"
#include "runtime/job/config.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

class RunCheckpoints {
 public:
  struct Options {
    std::string run_directory;
    int attempt = 0;
    std::string start_from;  // another run or checkpoint, if this run has no checkpoint; "": none
    DiskHook hook, memory_hook;  // planned faults
    // Collective; an error means: save nothing.
    std::function<absl::Status(int64_t step)> before_save;
  };
  // Collective. Fills `state` from the run's newest good checkpoint, in memory or on the disk, else
  // from start_from, else leaves it as it was built. All outlive it. Errors: see Restore; a
  // checkpoint whose data cursor is not where this job's batch would be.
  static absl::StatusOr<std::unique_ptr<RunCheckpoints>> Create(const ResolvedJob& job,
                                                                parallel::World& world,
                                                                Options options,
                                                                TrainingState& state,
                                                                LedgerWriter& ledger);

  // Of what was restored; all zero if nothing was. Training goes on at facts().step + 1.
  const CheckpointFacts& facts() const { return restored_; }

  // Whether AfterStep may save.
  bool IsDue(int64_t step) const { return IsDueInMemory(step) || IsDueOnDisk(step); }
  // After `step`, of which `skipped_steps` so far made no update: saves if it is time and the save
  // before has ended. Collective then if `before_save` is. A disk that fails, or is slow, is
  // logged, not an error; a state that is not finite is, once its save has ended: a RollBackError.
  absl::Status AfterStep(int64_t step, int64_t skipped_steps);
  // After `step`'s update, if its save (AfterStep) has to wait for the step's facts: until then,
  // work on the compute stream may only read the state.
  void Mark(int64_t step);
  // What this rank has to tell all others of the saves in flight, on an exchange that each step
  // makes; what all had to tell, by rank. Errors of Hear, equal on all ranks: those of AfterStep.
  std::string Progress();
  absl::Status Hear(const std::vector<std::string>& all);
  // After the first step: takes the host memory of saves, behind the next ones.
  void PrepareMemory();
  // Before the state changes again: the copy of a save runs behind the forward and backward.
  void BeforeUpdate();
  // No more steps come. Saves the last one if the job saves at all; one that was asked to stop
  // always does, since it is to go on. Waits for the commit; a disk that fails is tried three
  // times, then it is an error here: a NotSavedError, equal on all ranks.
  absl::Status AtEnd(int64_t step, int64_t skipped_steps, bool stopped);
  // The run is at its end and what it leaves is on the disk: frees the hosts' memory.
  absl::Status Done();
  // The last save to the disk that ended, for its figures.
  const SaveReport* last() const { return saver_ == nullptr ? nullptr : &saver_->last(); }

 private:
  bool IsDueInMemory(int64_t step) const {
    return memory_saver_ != nullptr && memory_saver_->IsDue(step);
  }
  bool IsDueOnDisk(int64_t step) const { return saver_ != nullptr && saver_->IsDue(step); }
  RunCheckpoints(const ResolvedJob& job, parallel::World& world, Options options,
                 TrainingState& state, LedgerWriter& ledger)
      : job_(job), world_(world), options_(std::move(options)), state_(state), ledger_(ledger) {}
  absl::Status Restore();
  absl::StatusOr<std::optional<RestoredState>> FindState(std::string* where);
  absl::StatusOr<std::optional<RestoredState>> NewestOfTiers(std::string* where);
  absl::StatusOr<std::optional<RestoredState>> FromDisk(const RestoreSource& source);
  absl::StatusOr<std::optional<RestoredState>> FromMemory(const MemoryCheckpoint& snapshot);
  absl::StatusOr<std::optional<RestoredState>> FromOrigin(std::string* where);
  absl::Status MakeSaver();
  absl::Status MakeMemorySaver();
  CheckpointFacts FactsOf(int64_t step, int64_t skipped_steps) const;
  absl::Status BeforeSave(int64_t step) const;
  absl::Status SaveLast(int64_t step, int64_t skipped_steps);
  static absl::Status CheckLast(const Checkpointer& saver);
  void SaveEnded(const SaveReport& report);
  void MemorySaveEnded(const SaveReport& report);
  void PutOff(const char* where, int64_t step, const CheckpointFacts& in_flight,
              double seconds) const;
  CheckpointEvent EventOf(CheckpointAct act, int64_t step, int64_t bytes) const;

  const ResolvedJob& job_;
  parallel::World& world_;
  const Options options_;
  TrainingState& state_;
  LedgerWriter& ledger_;
  CheckpointFacts restored_;
  int64_t snapshot_bytes_ = 0, last_on_disk_ = 0;  // last_on_disk_: of what was restored
  std::unique_ptr<Checkpointer> saver_;            // null until the first save, if every_steps is 0
  std::unique_ptr<MemorySite> site_;               // null without the tier in memory, as its saver
  std::unique_ptr<Checkpointer> memory_saver_;
  bool memory_announced_ = false;  // rank 0's writer thread: the first snapshot is in the log
  bool memory_late_ = false;       // the first snapshot that was put off is in the log
};

}  // namespace muster::runtime
