#include "runtime/job/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include "kernels/base/error.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
absl::StatusOr<std::unique_ptr<AtomicFile>> AtomicFile::Create(const std::string& path) {
  // The time too: in a container every attempt may have the same process number, and one that died
  // here has left its file.
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const std::string temporary = path + ".partial-" + std::to_string(getpid()) + "-" +
                                std::to_string(now.tv_sec) + "." + std::to_string(now.tv_nsec);
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return FileError("write " + path, errno);
  return std::unique_ptr<AtomicFile>(new AtomicFile(path, temporary, fd));
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status AtomicFile::Write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = write(fd_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return FileError("write " + path_, errno);
    next += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::WriteAt(size_t offset, const void* data, size_t bytes) {
  const ssize_t written = pwrite(fd_, data, bytes, static_cast<off_t>(offset));
  if (written != static_cast<ssize_t>(bytes)) return FileError("write " + path_, errno);
  return absl::OkStatus();
}

absl::Status AtomicFile::Commit() {
  if (fsync(fd_) != 0) return FileError("sync " + path_, errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return FileError("rename to " + path_, errno);
  close(fd_);
  fd_ = -1;
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  const std::string directory = parent.empty() ? "." : parent;
  const int directory_fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory_fd < 0) return FileError("open " + directory, errno);
  const int error = fsync(directory_fd) == 0 ? 0 : errno;
  close(directory_fd);
  return error == 0 ? absl::OkStatus() : FileError("sync " + directory, error);
}

absl::Status WriteFileAtomically(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicFile> file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file->Write(text.data(), text.size()));
  return file->Commit();
}

}  // namespace muster::runtime
