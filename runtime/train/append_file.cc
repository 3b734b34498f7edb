#include "runtime/train/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace muster::runtime {

absl::StatusOr<int> OpenForAppend(const std::string& path) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file >= 0) return file;
  return absl::PermissionDeniedError("cannot open " + path +
                                     " for appending: " + std::strerror(errno));
}

absl::StatusOr<int> OpenForAppendingLines(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0) {
    return absl::PermissionDeniedError("cannot open " + path +
                                       " for appending: " + std::strerror(errno));
  }
  const off_t size = lseek(file, 0, SEEK_END);
  off_t end = size;  // just behind the last newline
  for (char c = 0; end > 0 && pread(file, &c, 1, end - 1) == 1 && c != '\n';) --end;
  if (end < size && ftruncate(file, end) != 0) {
    const std::string reason = std::strerror(errno);
    close(file);
    return absl::UnavailableError("cannot cut the torn last line off " + path + ": " + reason);
  }
  return file;
}

absl::Status AppendWhole(int file, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return absl::UnavailableError("cannot write " + path + ": " + std::strerror(errno));
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
