#pragma once
// The ledger's other half: what a supervisor knows and no rank can write down. When an attempt
// began, what ended it, when the rest was killed, when all were gone, what was decided.
//
// File: ledger/supervisor-<k>.ledger in the run directory, one per supervisor process, of the same
// records as a rank's (runtime/goodput/ledger.h), with these types and payloads, version 1:
//   64 begin          i32 k, u64 config hash, i32 scheduler's restart count, text scheduler's job,
//                     text host, text build, u64 boot id's hash (0: not known), i64 submitted, i64
//                     started by the scheduler (Unix seconds; 0: not told)
//   65 attempt begin  i32 attempt, i32 world size
//   66 spawn          i32 attempt, i64 process id of the starter
//   67 exit           i32 attempt, i32 rank (-1: the starter), i32 status (128 + signal if a signal
//                     ended it; -1: not known, its connection closed without a word)
//   68 detect         i32 attempt, u8 kind, i32 exit code, i64 happened, i64 detected (both
//                     monotonic ns), u8 count, count x i32 rank, text evidence
//   69 teardown       i32 attempt: from here on what is left is killed
//   70 spare in       i32 attempt, text host
//   71 attempt end    i32 attempt, i32 exit code, u8 action: all are gone
//   72 host           i32 attempt, i32 devices, i32 ranks on them, text host; one for each that the
//                     job has, with the attempt's begin
// A detect record replaces an earlier one of its attempt, except that stragglers are kept beside.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/goodput/failure.h"
#include "runtime/goodput/scheduler_job.h"

namespace muster::runtime {

constexpr int kStarterRank = -1, kExitNotKnown = -1;

struct SupervisorBegin {
  int supervisor = 0;  // Create chooses it
  uint64_t config_hash = 0;
  SchedulerJob scheduler;
  std::string host;   // cut to 64 bytes
  std::string build;  // cut to 48 bytes
  uint64_t boot = 0;  // see ClockId; 0: Create fills in this kernel's
};

// A host that is allocated to the job while an attempt runs.
struct AttemptHost {
  std::string name;  // cut to 64 bytes
  int devices = 1;   // slots: ranks that may run there
  int ranks = 0;     // that do; none: a spare
};

// Like LedgerWriter, a write error never stops a run: it is logged, and kept in status(). It is
// synced while ranks start up, and as it ends, where nobody is kept waiting: not by a thread, of
// which a process that forks had better have none.
class SupervisorLedger {
 public:
  // Takes the next free number. Errors: the directory cannot be written.
  static absl::StatusOr<std::unique_ptr<SupervisorLedger>> Create(const std::string& run_directory,
                                                                  SupervisorBegin begin);
  virtual ~SupervisorLedger() = default;
  virtual void AttemptBegin(int attempt, int world_size) = 0;
  virtual void Host(int attempt, const AttemptHost& host) = 0;
  virtual void Spawn(int attempt, int64_t pid) = 0;
  virtual void Exit(int attempt, int rank, int status) = 0;
  virtual void Detect(int attempt, const Failure& failure) = 0;
  virtual void Teardown(int attempt) = 0;
  virtual void SpareIn(int attempt, const std::string& host) = 0;
  virtual void AttemptEnd(int attempt, int exit_code, Action action) = 0;
  virtual void Flush() = 0;  // what a full disk did not take; call it now and then
  virtual absl::Status status() const = 0;
  virtual int number() const = 0;  // of the run's supervisors, from 0
};

struct RankExit {
  int rank = 0, status = 0;
  int64_t seen_ns = 0;
};

struct SupervisedAttempt {
  int attempt = 0, world_size = 1;
  int64_t begin_ns = 0;
  std::optional<int64_t> spawn_ns, kill_ns, end_ns;
  int64_t end_realtime_ns = 0;     // with end_ns
  std::optional<Failure> failure;  // not a straggler
  std::vector<Failure> stragglers;
  std::vector<std::string> spares;
  std::vector<RankExit> exits;  // in the order in which they were seen
  std::vector<AttemptHost> hosts;
  int exit_code = 0;  // with end_ns
  Action action = Action::kStop;
};

struct SupervisorLog {
  SupervisorBegin begin;
  int64_t begin_monotonic_ns = 0, begin_realtime_ns = 0;
  std::vector<SupervisedAttempt> attempts;  // in order
  std::vector<std::string> damage;
};

// Errors: DataLoss if the first record is not a whole begin.
absl::StatusOr<SupervisorLog> ParseSupervisorLedger(std::string_view bytes);

// "supervisor-<k>.ledger".
std::string SupervisorFileName(int supervisor);

// The number that the next attempt of the run gets: above those of all directories and records.
int NextAttempt(const std::string& run_directory);

}  // namespace muster::runtime
