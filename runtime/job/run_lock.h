#pragma once
// One live job at a time writes a run directory, and what is left of an earlier one never commits
// to it again.
//
// The lock is a byte of <run>/run.lock, locked by rank 0's process (an open-file-description lock):
// the kernel gives it back however the process ends. Across hosts it is as good as the file
// system's locks: NFS keeps them on the server, and for a host that vanished until its lease ends;
// Lustre needs its flock mount option. Where the file system has none, that is logged, and the
// epoch alone stands guard.
//
// The epoch is the number of the newest attempt, in <run>/epoch, counted up under the lock. A
// process asks CheckEpoch before it makes a checkpoint visible: an orphan of an earlier attempt,
// which may still live after its rank 0 is gone, or on a host that was cut off, is refused.
//
// An orphan may hold the lock, too: stopped, waiting for a disk, or on a host that vanished. A run
// has one supervisor at a time, and that one starts an attempt after the other; so what it starts
// takes over from what a supervisor has started earlier (the file is signed with that), by a file
// of its own in place of the locked one. The orphan then holds the lock of a file without a name.
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

// The how manieth supervisor of a run has started this, as which attempt. Later ones are greater.
struct SupervisedStart {
  int supervisor = 0, attempt = 0;
  friend auto operator<=>(const SupervisedStart&, const SupervisedStart&) = default;
};

class RunLock {
 public:
  enum class Of {
    kJob,         // run.lock, of rank 0
    kSupervisor,  // launch.lock, in the same way
  };
  // The directory exists. Waits up to `patience` for a holder that is about to end.
  // `start`: by a supervisor; nullopt: there is none. Errors: Aborted, with the holder's host,
  // process and attempt; the file cannot be made.
  static absl::StatusOr<std::unique_ptr<RunLock>> Take(
      const std::string& run_directory,
      std::chrono::milliseconds patience = std::chrono::milliseconds(1500),
      std::optional<SupervisedStart> start = std::nullopt, Of of = Of::kJob);
  ~RunLock();  // gives it back
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // The number of a new attempt, above that of every earlier one; the supervisor's number, if there
  // is one. From now on earlier ones fail CheckEpoch. Durable when it returns. Errors: Aborted if a
  // later attempt than the supervisor's has begun.
  absl::StatusOr<int> BeginAttempt();
  // Of a supervisor: what those who are refused are told besides host and process.
  void SignAttempt(int attempt) const { Sign(attempt); }

 private:
  RunLock(const std::string& run_directory, std::optional<SupervisedStart> start, Of of);
  absl::Status Open();
  bool IsNamed() const;
  bool IsHeldByAnOrphan() const;
  absl::Status TakeOver();
  void Sign(std::optional<int> attempt) const;
  const std::string run_directory_, path_, signature_;
  const std::optional<SupervisedStart> start_;
  int file_ = -1;
};

// The number that the next attempt would get.
absl::StatusOr<int> NextEpoch(const std::string& run_directory);

// Errors: Aborted if a later attempt has begun; Unavailable if the epoch cannot be read, DataLoss
// if it is no number. A run without an epoch (a test's) has nothing to fence.
absl::Status CheckEpoch(const std::string& run_directory, int attempt);

}  // namespace muster::runtime
