#pragma once
// Finds what the memory of the hosts still has, and makes a checkpoint of it that any layout reads.
//
// Every file is verified first; a shard whose own copy is missing or damaged is taken from the
// keeper's. Each host then gets what it lacks, so that for the time of a restore it holds a whole
// checkpoint, of which only the missing shards take memory; a host without room for them leaves the
// restore to the disk.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/memory_site.h"
#include "runtime/checkpoint/restore.h"

namespace muster::runtime {

// A snapshot of which every shard is good on some host.
struct MemoryCheckpoint {
  int64_t step = 0;
  int attempt = 0;                               // that saved it
  std::vector<int64_t> bytes;                    // by shard
  std::vector<std::vector<int>> hosts_by_shard;  // that have a good copy, ascending
};

// Collective. Newest first; of one step that two attempts have saved, the later attempt's first.
// Logs copies that are damaged, and steps that are not complete; says nothing of what was saved
// before a checkpoint was set aside (retention.h). Errors: the world's.
absl::StatusOr<std::vector<MemoryCheckpoint>> FindInMemory(MemorySite& site);

// Collective. Puts a whole checkpoint together on each host; its files are second names of what
// lies there already, but for those that come from other hosts. Errors, equal on all ranks:
// ResourceExhausted, no room on some host; DataLoss, a copy has changed meanwhile.
absl::StatusOr<RestoreSource> PutTogether(const MemoryCheckpoint& checkpoint, MemorySite& site);

// Collective. Removes all snapshots but that of `step` (-1: all), and what was put together: no
// later restart can take a snapshot of a future that is no more.
absl::Status KeepOnlyInMemory(int64_t step, MemorySite& site);

}  // namespace muster::runtime
