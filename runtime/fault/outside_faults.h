#pragma once
// Planned faults of what is not the rank itself: its supervisor, and checkpoints that it has
// written.
#include <string>

#include "absl/status/status.h"
#include "runtime/job/fault_plan.h"

namespace muster::runtime {

// SIGKILL to the nearest process above this one that runs the same program: `muster launch`, where
// it started the rank on its own host. Errors: there is none.
absl::Status KillSupervisor();

// Whether `checkpoints`, a directory, has one that is committed.
bool HasCheckpoint(const std::string& checkpoints);
// Damages file `shard` of the newest of them. Errors: there is none; the disk's.
absl::Status DamageShard(const std::string& checkpoints, const std::string& shard, Damage how);

}  // namespace muster::runtime
