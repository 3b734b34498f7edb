#pragma once
// Appends whole lines or records to a file that others may be reading, or that a crash may cut.
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

// Opens `path` for appending, creating it with mode 0600. Errors name the path.
absl::StatusOr<int> OpenForAppend(const std::string& path);

// The same for a file of lines: a last line that a crash cut short is cut off first.
absl::StatusOr<int> OpenForAppendingLines(const std::string& path);

// Writes all bytes with one write(2) (more only if the system takes fewer). Errors name `path`.
absl::Status AppendWhole(int file, std::string_view bytes, const std::string& path);

}  // namespace muster::runtime
