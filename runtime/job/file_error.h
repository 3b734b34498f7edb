#pragma once
// What a file operation that failed means: whether it is the user's to correct, or the disk's
// state.
#include <string>

#include "absl/status/status.h"

namespace muster::runtime {

// "cannot open x: No such file or directory". NotFound; PermissionDenied; InvalidArgument for a
// path that can be none; ResourceExhausted if there is no room; else (an EIO, say) Unavailable.
absl::Status FileError(const std::string& what, int error);

}  // namespace muster::runtime
