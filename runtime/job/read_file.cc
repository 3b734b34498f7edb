#include "runtime/job/read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

// Of open with O_NOFOLLOW.
absl::Status OpenError(const std::string& path, int error) {
  if (error == ELOOP) return absl::DataLossError(path + " is a symlink, which is not followed");
  return FileError("open " + path, error);
}

}  // namespace

absl::StatusOr<ReadFile> ReadFile::Open(const std::string& path) {
  return OpenAt(AT_FDCWD, path.c_str(), path);
}

absl::StatusOr<ReadFile> ReadFile::OpenAt(int directory, const char* name,
                                          const std::string& path) {
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  const int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return OpenError(path, errno);
  struct stat facts {};
  if (fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    close(fd);
    return absl::DataLossError(path + " is no regular file");
  }
  return ReadFile(fd, path, facts.st_size);
}

ReadFile::ReadFile(ReadFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)), path_(std::move(other.path_)), size_(other.size_) {}

ReadFile& ReadFile::operator=(ReadFile&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  return *this;
}

ReadFile::~ReadFile() {
  if (file_ >= 0) close(file_);
}

absl::Status ReadFile::Read(int64_t offset, void* out, int64_t bytes) const {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = pread(file_, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(
          absl::StrCat(path_, ": wanted ", bytes, " bytes at offset ", offset, ", found ",
                       got == 0 ? "the end of the file" : std::strerror(errno)));
    }
    to += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

void ReadFile::Announce(int64_t offset, int64_t bytes) const {
  posix_fadvise(file_, offset, bytes, POSIX_FADV_WILLNEED);  // only advice
}

absl::StatusOr<ReadDirectory> ReadDirectory::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd >= 0) return ReadDirectory(fd, path);
  if (errno != ENOTDIR) return OpenError(path, errno);
  return absl::DataLossError(path + " is no directory (symlinks are not followed)");
}

ReadDirectory::ReadDirectory(ReadDirectory&& other) noexcept
    : directory_(std::exchange(other.directory_, -1)), path_(std::move(other.path_)) {}

ReadDirectory::~ReadDirectory() {
  if (directory_ >= 0) close(directory_);
}

absl::StatusOr<ReadFile> ReadDirectory::OpenFile(const std::string& name) const {
  MUSTER_CHECK(!name.empty() && name.find('/') == std::string::npos) << name;
  return ReadFile::OpenAt(directory_, name.c_str(), path_ + "/" + name);
}

}  // namespace muster::runtime
