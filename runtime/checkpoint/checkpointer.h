#pragma once
// Checkpoints of a running job. A save copies the state to host memory in the order of the compute
// stream, which is all that training waits for; a thread of each rank then writes its shard, and
// rank 0's, once every rank's shard is durable, commits the whole (runtime/checkpoint/commit.h) and
// removes old ones. One save is in flight at a time: the next one, and Finish, wait for it. Host
// memory for the copy is taken once.
//
// A disk that fails does not stop training: the error is logged on the rank that met it and kept in
// last(), older checkpoints stay, and the next save tries again.
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/device/stream.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/checkpoint/commit.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {

// What this rank stores of a logical tensor: range.count contiguous elements on the device. All
// ranks together store each element once.
struct SavedPiece {
  std::string tensor;
  LogicalRange range;
  kernels::TensorView data;
};

struct CheckpointOptions {
  int64_t every_steps = 0;   // 0: MaybeSave never saves
  int keep = 3;              // checkpoints; at least 1
  bool asynchronous = true;  // false: Save waits for the commit
  DiskHook hook;             // tests
};

// The last save that ended.
struct SaveReport {
  int64_t step = -1;          // -1: none yet
  absl::Status status;        // equal in meaning on all ranks: committed everywhere or nowhere
  int64_t bytes = 0;          // of this rank's shard
  double stall_seconds = 0;   // the host's time in Save, without a wait for the save before
  double write_seconds = 0;   // hash, write and sync of this rank's shard
  double commit_seconds = 0;  // from the snapshot to the commit; rank 0
};

class Checkpointer {
 public:
  // `world` and the memory of `pieces` outlive it. Errors: no host memory.
  static absl::StatusOr<std::unique_ptr<Checkpointer>> Create(const std::string& run_directory,
                                                              std::vector<SavedPiece> pieces,
                                                              parallel::World& world,
                                                              kernels::StreamView compute,
                                                              CheckpointOptions options);
  // Gives up a save in flight; what was not committed stays as a leftover.
  ~Checkpointer();

  // After facts.step: saves if it is a multiple of every_steps. Collective then. Errors are those
  // of the world, not of the disk.
  absl::Status MaybeSave(const CheckpointFacts& facts);
  absl::Status Save(const CheckpointFacts& facts);
  // Waits until the save in flight, if any, has been committed or has failed. Collective.
  absl::Status Finish();
  const SaveReport& last() const { return last_; }

 private:
  Checkpointer(const std::string& run_directory, std::vector<SavedPiece> pieces,
               parallel::World& world, kernels::StreamView compute, CheckpointOptions options);
  absl::Status Prepare(const std::string& partial);
  void Snapshot();
  void WriteBehind(const CheckpointFacts& facts);
  bool WaitForRecords(const std::string& partial);
  void Commit(const std::string& partial, int64_t begin_ns);
  void SetWritten(const absl::Status& status);

  const std::string directory_;  // <run>/checkpoints
  const std::vector<SavedPiece> pieces_;
  parallel::World& world_;
  const kernels::StreamView compute_;
  const CheckpointOptions options_;
  const Disk disk_;
  kernels::DeviceBuffer host_;        // the snapshot
  std::vector<int64_t> host_offset_;  // by piece
  SaveReport last_, flying_;
  std::thread writer_;  // joinable: a save is in flight

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool copied_ = false, written_ = false, give_up_ = false;
  absl::Status written_status_;
  absl::Status commit_status_;  // rank 0
};

}  // namespace muster::runtime
