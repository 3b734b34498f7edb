#pragma once
// Finds and reads the files of a ledger; names and contents may come from anywhere.
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace muster::runtime {

// The entries of a directory that are called prefix + number + suffix: paths by number. A
// directory that cannot be read has none.
std::map<int, std::string> Numbered(const std::string& directory, std::string_view prefix,
                                    std::string_view suffix);

// No link is followed. Errors: NotFound; DataLoss if it is no regular file or larger than 1 GiB.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path);

}  // namespace muster::runtime
