#pragma once
// Saves into the memory of the hosts. Each rank writes its shard and record into its host's
// directory and passes both on to its keeper on another host, all within step-<n>.attempt-<a>
// .partial; once all ranks know that all copies are whole, the leader of each host renames its
// directory to step-<n>. The snapshot before stays until all ranks agree that this one is there, so
// a host holds two of them at most. There is no manifest of the whole: who restores makes one from
// the records (runtime/checkpoint/memory_restore.h).
#include <memory>

#include "runtime/checkpoint/memory_site.h"
#include "runtime/checkpoint/store.h"

namespace muster::runtime {

// `site` outlives it.
std::unique_ptr<CheckpointStore> MakeMemoryStore(MemorySite& site);

}  // namespace muster::runtime
