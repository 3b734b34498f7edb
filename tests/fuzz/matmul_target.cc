#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/train/matmul_file.h"
#include "tests/fuzz/target.h"

namespace muster::fuzz {

// The first byte says whether lines get the header and their hashes: no mutation would guess them.
int MatmulFile(std::string_view bytes) {
  if (bytes.empty()) return 0;
  std::string text(bytes.substr(1));
  if (bytes[0] % 2 == 1) {
    const std::vector<std::string> lines = absl::StrSplit(text, '\n');
    text = runtime::FormatMatmulFile({});
    for (const std::string& line : lines) {
      absl::StrAppend(&text, kernels::HexDigits(kernels::Hash64(line)), " ", line, "\n");
    }
  }
  const runtime::MatmulFile file = runtime::ParseMatmulFile(text);
  MUSTER_CHECK(file.of_our_form || file.matmuls.empty());
  // What was read is written and read again to the same.
  const auto again = runtime::ParseMatmulFile(runtime::FormatMatmulFile(file.matmuls));
  MUSTER_CHECK(again.matmuls == file.matmuls && again.damaged_lines == 0);
  return 0;
}

}  // namespace muster::fuzz
