#pragma once
// Which checkpoints a run has, and which old ones go. The directory <run>/checkpoints holds
//   step-<n>             committed
//   step-<n>.attempt-<a>.partial     a save in flight, or one that died
//   step-<n>.removed[-<i>]           on its way out
//   step-<n>.replaced                see Publish
//   step-<n>.set_aside.attempt-<a>   what attempt <a> and later ones shall not go on from: it stays
//                                    until a person has looked at it
// and nothing else is touched.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/commit.h"

namespace muster::runtime {

// Steps of the committed checkpoints, newest first; empty only if nothing has the directory's name.
// A symlink or file of a checkpoint's name is not one. Errors: it cannot be looked at, or listed.
absl::StatusOr<std::vector<int64_t>> ListCheckpoints(const std::string& directory);

// Keeps the newest `keep` (>= 1) checkpoints up to `newest`, which was just committed and so is
// good: one that is good is never the last to go. Later ones, of a time before a roll-back, stay. A
// checkpoint is renamed before its files go, so that half of one is never taken for a whole; files
// that cannot be removed are logged (RemoveOrWarn).
absl::Status RemoveOldCheckpoints(const Disk& disk, const std::string& directory, int64_t newest,
                                  int keep);

// Takes the newest checkpoint out of those that a run goes on from: `attempt`, the next one, finds
// the one before it, and no snapshots in memory of attempts before. Returns the name that it has
// now. Errors: there is none.
absl::StatusOr<std::string> SetNewestAside(const Disk& disk, const std::string& directory,
                                           int attempt);
// The newest attempt for which a checkpoint was set aside; -1: there is none.
absl::StatusOr<int> LastSetAside(const std::string& directory);

// Removes what saves of this and earlier attempts, and removals, have left; a checkpoint that one
// of them was about to replace comes back. Nobody else of this attempt may be saving. A save's
// directory is renamed first: if an orphan of an earlier attempt is about to publish it, there is
// nothing any more that it could rename. Errors: it cannot be listed, or a name cannot be changed;
// files that cannot be removed are logged (RemoveOrWarn), since they do no harm.
absl::Status RemoveLeftovers(const Disk& disk, const std::string& directory, int attempt);
// The same for a directory <directory>/<name> that is published whole, as the final weights are.
absl::Status RemoveLeftoversOf(const Disk& disk, const std::string& directory,
                               const std::string& name, int attempt);

}  // namespace muster::runtime
