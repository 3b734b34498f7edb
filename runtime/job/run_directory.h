#pragma once
// The directory of one run: config.textproto, tokenizer.model, metrics.jsonl, tensorboard/,
// ledger/, checkpoints/, weights/, logs/, run.lock, epoch. Rank 0 makes or continues it; every rank
// gets the same answer.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/job/config.h"
#include "runtime/job/run_lock.h"

namespace muster::runtime {

enum class ResumeMode {
  kAuto,   // a run that is there goes on, if its config allows; else a new one begins
  kNever,  // a run that is there is refused
  kFrom,   // a new run begins from another one's state
};

struct RunDirectoryOptions {
  std::string path;  // empty: runs/<job name>-<local time> below the working directory
  ResumeMode resume = ResumeMode::kAuto;
  std::string start_from;  // kFrom: a run directory, or one checkpoint, <somewhere>/step-<n>
  std::optional<SupervisedStart> start;  // by a supervisor
};

struct RunDirectory {
  std::string path;  // absolute
  int attempt = 0;   // of this run, from 0; also its epoch
  // Of the run's first attempt, kept in <run>/origin; "": nothing. Once a state is restored from it
  // that names one checkpoint (runtime/train/run_checkpoints.h).
  std::string start_from;
  std::unique_ptr<RunLock> lock;  // rank 0: hold it until the job ends
};

// Collective. Errors (on every rank, and nothing is left behind): it cannot be created or written
// (see FileError); it holds a run where it must not (AlreadyExists); a field differs from the
// kept config that may not (FailedPrecondition, all such fields named); another job is writing it
// (Aborted, who).
absl::StatusOr<RunDirectory> PrepareRunDirectory(const RunDirectoryOptions& options,
                                                 const ResolvedJob& job, parallel::World& world);

// "\n  train.seed: 1 on rank 0, 1; 2 on rank 2", a line for each field that is not equal on all
// ranks; `fields_by_rank` has lines of path, tab, value.
std::string DescribeDisagreement(const std::vector<std::string>& fields_by_rank);

// Every rank compares its job, version and program with the others'. Errors name each field that
// differs, its values and their ranks.
absl::Status CheckAgreement(const ResolvedJob& job, const std::string& version,
                            parallel::World& world);

}  // namespace muster::runtime
