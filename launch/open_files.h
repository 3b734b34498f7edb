#pragma once
// How many files and sockets this process may have open at once (RLIMIT_NOFILE).
#include "absl/status/status.h"

namespace muster::launch {

// Raises the limit, if it is lower, to what a supervisor of so many ranks needs: a socket each, and
// some. No further, since processes that it starts inherit the limit, and some close every file up
// to it. Errors: FailedPrecondition, if no more may be had.
absl::Status AllowOpenFilesFor(int num_ranks);

}  // namespace muster::launch
