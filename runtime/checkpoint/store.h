#pragma once
// Where the snapshots of a running job go: to the run directory's disk (runtime/checkpoint/
// disk_store.h) or to the memory of the hosts (runtime/checkpoint/memory_store.h). A store writes
// what a rank has copied and makes it visible once every rank has written its part.
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "runtime/checkpoint/format.h"
#include "runtime/checkpoint/writer.h"

namespace muster::runtime {

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

// Looks again and again until `is_there` says so. False: the save was given up meanwhile.
using WaitFor = std::function<bool(const std::function<bool()>& is_there)>;

class CheckpointStore {
 public:
  virtual ~CheckpointStore() = default;
  // Writes this rank's pieces of report->facts and, if all ranks have, makes the whole visible.
  // Fills in bytes, total_bytes and write_seconds. On the writer thread of each rank, one save at a
  // time. Cancelled: another rank failed.
  virtual absl::Status Save(const std::vector<HostPiece>& pieces, const WaitFor& wait_for,
                            SaveReport* report) = 0;
  // Makes room, on the same thread, after rank 0 has announced a commit.
  virtual void Announced(const SaveReport& report) { (void)report; }
  // All ranks agree on report.status: if it is OK, on each rank's training thread, else on one of
  // its own. No save is in flight.
  virtual void Ended(const SaveReport& report) = 0;
};

}  // namespace muster::runtime
