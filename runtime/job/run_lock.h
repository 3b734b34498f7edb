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
#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

class RunLock {
 public:
  // The directory exists. Waits up to `patience` for a holder that is about to end. Errors:
  // Aborted, with the holder's host, process and attempt; the file cannot be made.
  static absl::StatusOr<std::unique_ptr<RunLock>> Take(
      const std::string& run_directory,
      std::chrono::milliseconds patience = std::chrono::milliseconds(1500));
  ~RunLock();  // gives it back
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // The number of a new attempt, above that of every earlier one and at least `at_least`, which a
  // supervisor that counts failed starts, too, may ask for; from now on earlier ones fail
  // CheckEpoch. Durable when it returns.
  absl::StatusOr<int> BeginAttempt(int at_least = 0);

 private:
  RunLock(std::string run_directory, int file)
      : run_directory_(std::move(run_directory)), file_(file) {}
  void Sign(const std::string& text) const;
  const std::string run_directory_;
  const int file_;
};

// The number that the next attempt would get.
absl::StatusOr<int> NextEpoch(const std::string& run_directory);

// Errors: Aborted if a later attempt has begun; DataLoss if the epoch cannot be read. A run without
// an epoch (a test's) has nothing to fence.
absl::Status CheckEpoch(const std::string& run_directory, int attempt);

}  // namespace muster::runtime
