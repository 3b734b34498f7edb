#pragma once
// Checkpoints of a running job. A save copies the state to host memory in the order of the compute
// stream, which is all that training waits for: no disk, no other rank; a thread of each rank then
// writes its shard, and rank 0's, once every rank's shard is durable, commits the whole
// (runtime/checkpoint/commit.h) and removes old ones. One save is in flight at a time: the next
// one, and Finish, wait for it. Host memory for the copy is taken once.
//
// facts.attempt names the directory of a save in flight, so that what is left of an earlier attempt
// can neither write into it nor be taken for it.
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

// A save that has ended.
struct SaveReport {
  CheckpointFacts facts;      // step 0: there was none yet
  absl::Status status;        // equal in meaning on all ranks: committed everywhere or nowhere
  int64_t bytes = 0;          // of this rank's shard
  int64_t total_bytes = 0;    // of all shards; rank 0, once committed
  double stall_seconds = 0;   // the host's time in Save, without the wait for the save before
  double wait_seconds = 0;    // and that wait
  double write_seconds = 0;   // hash, write and sync of this rank's shard
  double commit_seconds = 0;  // from the snapshot to the commit; rank 0
};

struct CheckpointOptions {
  int64_t every_steps = 0;   // 0: MaybeSave never saves
  int keep = 3;              // checkpoints; at least 1
  bool asynchronous = true;  // false: Save waits for the commit
  // On rank 0, before a save begins, before it becomes visible, and before old ones go: an error
  // means that this process may not write here any more. Aborted also ends Save and Finish.
  std::function<absl::Status()> fence;
  // On rank 0: a save was committed (called at once, on the writer's thread), or has failed.
  std::function<void(const SaveReport&)> ended;
  std::function<void()> waiting;  // now and then while the host waits for the disk
  DiskHook hook;                  // tests
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
  // of the world and the fence, not of the disk.
  absl::Status MaybeSave(const CheckpointFacts& facts);
  absl::Status Save(const CheckpointFacts& facts);
  bool IsDue(int64_t step) const;
  // Waits until the save in flight, if any, has been committed or has failed. Collective.
  absl::Status Finish();
  const SaveReport& last() const { return last_; }

 private:
  Checkpointer(const std::string& run_directory, std::vector<SavedPiece> pieces,
               parallel::World& world, kernels::StreamView compute, CheckpointOptions options);
  absl::Status Prepare(const std::string& partial);
  void Snapshot();
  void WriteBehind();
  absl::Status WriteOwn(const std::string& partial);
  bool WaitFor(const std::function<bool()>& is_there);
  absl::Status Commit(const std::string& partial);
  absl::Status CheckFence() const;
  void RemoveOld(int64_t newest);
  std::string OwnProgress();
  absl::StatusOr<absl::Status> AgreeOnEnd();

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
  bool copied_ = false, begun_ = false, ended_ = false, give_up_ = false;
  absl::Status result_;  // of this rank's writer; rank 0's includes the commit
};

}  // namespace muster::runtime
