#include "runtime/checkpoint/agreement.h"

#include <charconv>

#include "kernels/base/error.h"

namespace muster::runtime {

std::string StatusText(const absl::Status& status) {
  if (status.ok()) return "";
  return std::to_string(static_cast<int>(status.code())) + " " + std::string(status.message());
}

absl::Status FirstError(const std::vector<std::string>& texts) {
  absl::Status first;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank].empty()) continue;
    int code = static_cast<int>(absl::StatusCode::kUnknown);
    const char* end = texts[rank].data() + texts[rank].size();
    const auto parsed = std::from_chars(texts[rank].data(), end, code);
    const absl::Status status(static_cast<absl::StatusCode>(code),
                              "rank " + std::to_string(rank) + ":" + std::string(parsed.ptr, end));
    if (!absl::IsCancelled(status)) return status;
    if (first.ok()) first = status;
  }
  return first;
}

absl::StatusOr<absl::Status> Agree(const absl::Status& mine, parallel::World& world) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all, world.GatherText(StatusText(mine)));
  return FirstError(all);
}

}  // namespace muster::runtime
