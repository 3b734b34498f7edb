#pragma once
// Saves of a running job. A save copies the state to host memory, which is all that training may
// wait for: no disk, no other rank; a thread of each rank then gives the copy to a store
// (runtime/checkpoint/store.h), which commits it once all ranks have written theirs. One save is in
// flight at a time, and host memory for its copy is taken once. A store that is slower than saves
// come due does not hold training up: a save that is due while the one before is in flight is put
// off to the first step that finds it ended.
//
// With overlap_copy the copy runs on a stream of its own, behind the next forward and backward,
// which only read the state: the next change of it has to wait, by BeforeUpdate.
//
// Whether a save has ended is for all ranks to say together. A caller whose ranks meet at each step
// in any case passes on there what each has to tell (Progress, Hear): MaybeSave goes by what has
// been heard and makes no meeting of its own.
//
// A store that fails does not stop training: the error is logged on the rank that met it and kept
// in last(), older checkpoints stay, and MaybeSave tries again when the next save is due; after
// further failures it lets 2, 4, then 8 intervals pass.
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/host_region.h"
#include "kernels/device/stream.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/checkpoint/format.h"
#include "runtime/checkpoint/store.h"

namespace muster::runtime {

// What this rank stores of a logical tensor: range.count contiguous elements on the device. All
// ranks together store each element once.
struct SavedPiece {
  std::string tensor;
  LogicalRange range;
  kernels::TensorView data;
};

struct CheckpointOptions {
  int64_t every_steps = 0;    // 0: MaybeSave never saves
  int keep = 3;               // checkpoints; at least 1
  bool asynchronous = true;   // false: Save waits for the commit
  bool overlap_copy = false;  // the caller promises BeforeUpdate
  // See DiskStoreOptions. Aborted also ends Save and Finish.
  std::function<absl::Status()> fence;
  // On every rank: the state to save is on its way into host memory. Comes before `ended` does.
  std::function<void(const CheckpointFacts&)> snapshot_taken;
  // On rank 0: a save was committed (called at once, on the writer's thread), or has failed.
  std::function<void(const SaveReport&)> ended;
  // On rank 0: a save is due at `step`, but this one has been in flight for so long.
  std::function<void(int64_t step, const CheckpointFacts& in_flight, double seconds)> put_off;
  std::function<void()> waiting;  // now and then while the host waits for the store
  DiskHook hook;                  // tests and planned faults
};

class Checkpointer {
 public:
  // To the run directory's disk. `world` and the memory of `pieces` outlive it. Errors: no host
  // memory.
  static absl::StatusOr<std::unique_ptr<Checkpointer>> Create(const std::string& run_directory,
                                                              std::vector<SavedPiece> pieces,
                                                              parallel::World& world,
                                                              kernels::StreamView compute,
                                                              CheckpointOptions options);
  // To any store; of the options keep, fence and hook are the store's own matter.
  static absl::StatusOr<std::unique_ptr<Checkpointer>> CreateWith(
      std::unique_ptr<CheckpointStore> store, std::vector<SavedPiece> pieces,
      parallel::World& world, kernels::StreamView compute, CheckpointOptions options);
  // Gives up a save in flight; what was not committed stays as a leftover.
  ~Checkpointer();

  // After facts.step: saves if it is due and the save before is known to have ended; true if it
  // does. Errors are those of the world and the fence, not of the store.
  absl::StatusOr<bool> MaybeSave(const CheckpointFacts& facts);
  // Whether MaybeSave of that step saves; if not, nothing is marked any more.
  bool Begins(int64_t step);
  // Waits for the save before. Collective if there is one.
  absl::Status Save(const CheckpointFacts& facts);
  // At a multiple of every_steps, and from one that was put off on; not while a failed save lets
  // intervals pass.
  bool IsDue(int64_t step) const;
  // Begins to take the host memory of the copy behind whatever goes on; what is missing of it at
  // the first save, that one waits for.
  void PrepareMemory() { host_->Prepare(); }
  // Errors: ResourceExhausted, if there is too little of it. Does not wait.
  absl::Status MemoryStatus() const { return host_->status(); }
  // With overlap_copy: the state to save is the one that the compute stream's work up to here
  // leaves. If Save or MaybeSave comes later, work enqueued between may only read it.
  void Mark();
  // Later work of the compute stream, which may change the state, waits until the copy is done.
  void BeforeUpdate();
  // What this rank has to tell all others of the save in flight; "": there is none, or it went
  // well. Never waits.
  std::string Progress();
  // What all ranks had to tell at one moment, by rank; never waits. If all have ended, so has the
  // save, and last() is of it; if one has failed, the others are told to give up. Every rank must
  // hear the same. Errors: Aborted, by the fence.
  absl::Status Hear(const std::vector<std::string>& all);
  // Waits until the save in flight, if any, has been committed or has failed. Collective if there
  // is one whose end has not been heard. Then waits until a failed one is cleared away.
  absl::Status Finish();
  const SaveReport& last() const { return last_; }      // that has ended
  int64_t num_put_off() const { return num_put_off_; }  // saves, so far
  // Of the newest save that was committed; -1: none.
  int64_t committed_step() const { return committed_step_; }

 private:
  Checkpointer(std::unique_ptr<CheckpointStore> store, std::vector<SavedPiece> pieces,
               parallel::World& world, kernels::StreamView compute, CheckpointOptions options);
  absl::Status Begin(const CheckpointFacts& facts, double wait_seconds);
  absl::Status Snapshot();
  void WriteBehind();
  bool WaitUntil(const std::function<bool()>& is_there);
  void AwaitOwnEnd();
  absl::Status AwaitEnd();
  absl::Status Conclude(const absl::Status& status);

  const std::unique_ptr<CheckpointStore> store_;
  const std::vector<SavedPiece> pieces_;
  parallel::World& world_;
  const kernels::StreamView compute_;
  const CheckpointOptions options_;
  std::unique_ptr<kernels::HostRegion> host_;  // the snapshot
  std::vector<int64_t> host_offset_;           // by piece
  SaveReport last_, flying_;
  int64_t committed_step_ = -1, retry_step_ = 0;
  int64_t put_off_step_ = 0, num_put_off_ = 0, begin_ns_ = 0;  // put_off_step_ 0: none
  int failures_ = 0;                                           // in a row
  std::thread writer_;                                         // joinable: a save is in flight
  std::thread clearer_;  // of the failed one before: rank 0 alone does that, and none waits for it
  // With overlap_copy.
  std::unique_ptr<kernels::Event> ready_, copy_done_;
  std::unique_ptr<kernels::Stream> copy_stream_;
  bool copy_pending_ = false, marked_ = false;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool copied_ = false, begun_ = false, ended_ = false, give_up_ = false;
  absl::Status result_;  // of this rank's writer; rank 0's includes the commit
};

}  // namespace muster::runtime
