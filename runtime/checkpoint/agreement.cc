#include "runtime/checkpoint/agreement.h"

#include <charconv>
#include <string>
#include <vector>

#include "kernels/base/error.h"

namespace muster::runtime {

absl::StatusOr<absl::Status> Agree(const absl::Status& mine, parallel::World& world) {
  const std::string text =
      mine.ok() ? ""
                : std::to_string(static_cast<int>(mine.code())) + " " + std::string(mine.message());
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(text));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    int code = static_cast<int>(absl::StatusCode::kUnknown);
    const char* end = all[rank].data() + all[rank].size();
    const auto parsed = std::from_chars(all[rank].data(), end, code);
    return absl::Status(static_cast<absl::StatusCode>(code),
                        "rank " + std::to_string(rank) + ":" + std::string(parsed.ptr, end));
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
