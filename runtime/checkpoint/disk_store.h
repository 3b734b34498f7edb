#pragma once
// Checkpoints in <run>/checkpoints, which all ranks see. Rank 0 makes the directory of a save, each
// rank writes its shard and a record into it, and rank 0, once every record is there, commits
// (runtime/checkpoint/commit.h) and removes old ones.
//
// facts.attempt names the directory of a save in flight, so that what is left of an earlier attempt
// can neither write into it nor be taken for it.
#include <functional>
#include <memory>
#include <string>

#include "runtime/checkpoint/store.h"

namespace muster::runtime {

struct DiskStoreOptions {
  int keep = 3;  // checkpoints; at least 1
  // On rank 0, before a save begins, before it becomes visible, and before old ones go: an error
  // means that this process may not write here any more.
  std::function<absl::Status()> fence;
  DiskHook hook;  // tests and planned faults
};

std::unique_ptr<CheckpointStore> MakeDiskStore(const std::string& run_directory, int rank,
                                               int num_ranks, DiskStoreOptions options);

}  // namespace muster::runtime
