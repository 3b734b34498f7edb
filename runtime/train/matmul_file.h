#pragma once
// A text file that keeps the algorithms of matrix products, so that later starts need not search
// again, and compute the same bits:
//
//   muster matmul algorithms 2
//   <XXH3 of the rest of the line> <scope> <key> <algorithm, 8 hexadecimal numbers>
//
// Scope and key are kernels/ops/matmul_chooser.h's. Files appear whole, by a rename; what another
// process added meanwhile is taken over. Of two that rename at once the later one wins: what the
// other had added is searched once more at some later start.
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops/matmul_key.h"

namespace muster::runtime {

// By scope and key.
using KeptMatmuls = std::map<std::pair<std::string, std::string>, kernels::MatmulAlgorithm>;

struct MatmulFile {
  KeptMatmuls matmuls;      // of two lines about one product the last
  int damaged_lines = 0;    // passed over
  bool of_our_form = true;  // false: another file, or of another version; nothing was read
};
MatmulFile ParseMatmulFile(const std::string& text);
std::string FormatMatmulFile(const KeptMatmuls& matmuls);

// A file that is not there is empty. Errors: it cannot be read.
absl::StatusOr<MatmulFile> ReadMatmulFile(const std::string& path);
// Adds `matmuls` to the file, instead of what it has for them, unless it has all of them. Makes its
// directory. Errors: it cannot be read or written; it is not of our form, and left alone.
absl::Status AddToMatmulFile(const std::string& path, const KeptMatmuls& matmuls);

// The file of a user's choices: `cache` if it is set, else under the cache directory `xdg`, else
// under `home`; empty if all are null, or `cache` is empty: no file.
std::string UsersMatmulFile(const char* cache, const char* xdg, const char* home);

}  // namespace muster::runtime
