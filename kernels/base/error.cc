#include "kernels/base/error.h"

#include <cstdio>
#include <cstdlib>

namespace muster::kernels {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  message_ << "CHECK failed at " << file << ":" << line << ": " << condition << " ";
}

CheckFailure::~CheckFailure() {
  std::fprintf(stderr, "%s\n", message_.str().c_str());
  std::fflush(stderr);
  std::abort();
}

absl::Status Annotate(const absl::Status& status, const std::string& where) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), where + ": " + std::string(status.message()));
  status.ForEachPayload([&annotated](absl::string_view kind, const absl::Cord& payload) {
    annotated.SetPayload(kind, payload);
  });
  return annotated;
}

absl::Status LibraryError(const std::string& message) {
  for (const char* words : {"out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED"}) {
    if (message.find(words) != std::string::npos) return absl::ResourceExhaustedError(message);
  }
  return absl::InternalError(message);
}

}  // namespace muster::kernels
