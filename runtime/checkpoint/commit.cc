#include "runtime/checkpoint/commit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

// Large enough for full speed, small enough that a failed disk is noticed soon.
constexpr size_t kWriteBytes = size_t{16} << 20;
// Files from this size on go past the page cache (O_DIRECT), which would only hold what nobody
// reads soon, and costs the disk most of its rate.
constexpr size_t kDirectBytes = size_t{4} << 20;

// False: the file system cannot.
bool StartDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

// True if the file was written directly until now.
bool EndDirect(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DIRECT) != 0 && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

absl::Status Failed(const std::string& what) { return FileError(what, errno); }

// In two steps.
absl::Status Replace(const Disk& disk, const std::string& parent, const std::string& from,
                     const std::string& to) {
  const std::string old = to + kReplaced;
  RETURN_IF_ERROR(disk.Rename(to, old));
  const absl::Status renamed = disk.Rename(from, to);
  if (!renamed.ok()) {  // a later attempt has taken `from` away
    disk.Rename(old, to).IgnoreError();
    return renamed;
  }
  RETURN_IF_ERROR(disk.SyncDirectory(parent));
  const absl::Status retired = Retire(disk, parent, old, to);
  if (!retired.ok()) {  // BringBack tries again
    kernels::Log(kernels::Severity::kWarning, std::string(retired.message()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Disk::Announce(const char* call, const std::string& path) const {
  return hook_ ? hook_(call, path) : absl::OkStatus();
}

absl::Status Disk::Write(int fd, const std::string& path, const char* data, size_t bytes) const {
  while (bytes > 0) {
    RETURN_IF_ERROR(Announce("write", path));
    const ssize_t written = write(fd, data, std::min(bytes, kWriteBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EINVAL && EndDirect(fd)) continue;  // another alignment is wanted
    if (written <= 0) return Failed("write " + path);
    data += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

// Through an aligned block; the last bytes, which fill no unit, go through the page cache.
absl::Status Disk::WriteDirect(int fd, const std::string& path,
                               const std::vector<ByteSpan>& content) const {
  const std::unique_ptr<char, decltype(&std::free)> block(
      static_cast<char*>(std::aligned_alloc(kDirectAlignment, kWriteBytes)), &std::free);
  if (block == nullptr) return absl::ResourceExhaustedError("no memory to write " + path);
  size_t used = 0;
  for (const ByteSpan& span : content) {
    for (size_t done = 0; done < span.bytes;) {
      const size_t part = std::min(span.bytes - done, kWriteBytes - used);
      std::memcpy(block.get() + used, static_cast<const char*>(span.data) + done, part);
      done += part;
      used += part;
      if (used < kWriteBytes) continue;
      RETURN_IF_ERROR(Write(fd, path, block.get(), used));
      used = 0;
    }
  }
  const size_t aligned = used / kDirectAlignment * kDirectAlignment;
  RETURN_IF_ERROR(Write(fd, path, block.get(), aligned));
  EndDirect(fd);
  return Write(fd, path, block.get() + aligned, used - aligned);
}

absl::Status Disk::WriteAndSync(int fd, const std::string& path,
                                const std::vector<ByteSpan>& content) const {
  size_t bytes = 0;
  for (const ByteSpan& span : content) bytes += span.bytes;
  if (bytes >= kDirectBytes && StartDirect(fd)) {
    RETURN_IF_ERROR(WriteDirect(fd, path, content));
  } else {
    for (const ByteSpan& span : content) {
      RETURN_IF_ERROR(Write(fd, path, static_cast<const char*>(span.data), span.bytes));
    }
  }
  RETURN_IF_ERROR(Announce("fsync", path));
  return fsync(fd) == 0 ? absl::OkStatus() : Failed("sync " + path);
}

absl::StatusOr<int> Disk::CreateNew(const std::string& path) const {
  RETURN_IF_ERROR(Announce("open", path));
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return Failed("create " + path);
  return fd;
}

absl::Status Disk::WriteNew(const std::string& path, const std::vector<ByteSpan>& content) const {
  ASSIGN_OR_RETURN(const int fd, CreateNew(path));
  absl::Status status = WriteAndSync(fd, path, content);
  if (close(fd) != 0 && status.ok()) status = Failed("close " + path);
  if (!status.ok()) unlink(path.c_str());  // the first error is the one to report
  return status;
}

absl::Status Disk::MakeDirectory(const std::string& path) const {
  RETURN_IF_ERROR(Announce("mkdir", path));
  return mkdir(path.c_str(), 0700) == 0 ? absl::OkStatus() : Failed("make directory " + path);
}

absl::Status Disk::SyncDirectory(const std::string& path) const {
  RETURN_IF_ERROR(Announce("fsync", path));
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Failed("open " + path);
  const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : Failed("sync " + path);
  close(fd);
  return status;
}

absl::Status Disk::Rename(const std::string& from, const std::string& to) const {
  RETURN_IF_ERROR(Announce("rename", to));
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return absl::OkStatus();
  }
  // NFS has no RENAME_NOREPLACE. A plain rename replaces no directory that holds anything; of files
  // only names of our own attempt are renamed.
  if (errno == EINVAL && rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return Failed("rename " + from + " to " + to);
}

absl::Status Disk::Link(const std::string& from, const std::string& to) const {
  RETURN_IF_ERROR(Announce("link", to));
  if (link(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return Failed("link " + from + " to " + to);
}

absl::Status Disk::Exchange(const std::string& a, const std::string& b) const {
  RETURN_IF_ERROR(Announce("exchange", b));
  if (renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) {
    return absl::OkStatus();
  }
  if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) {
    return absl::UnimplementedError("the file system of " + b + " cannot exchange two names");
  }
  return Failed("exchange " + a + " and " + b);
}

absl::Status Disk::RemoveFile(const std::string& path) const {
  RETURN_IF_ERROR(Announce("unlink", path));
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : Failed("remove " + path);
}

absl::Status Disk::RemoveDirectory(const std::string& path) const {
  std::error_code error;
  const fs::file_status found = fs::symlink_status(path, error);
  if (found.type() == fs::file_type::not_found) return absl::OkStatus();
  if (found.type() != fs::file_type::directory) {
    return absl::FailedPreconditionError("refuses to remove " + path + ": it is no directory");
  }
  std::vector<std::string> files;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code unseen;
    const fs::file_type type = entry->symlink_status(unseen).type();
    if (type != fs::file_type::regular && type != fs::file_type::not_found) {
      return absl::FailedPreconditionError("refuses to remove " + path + ": " +
                                           entry->path().filename().string() +
                                           " in it is no plain file");
    }
    files.push_back(entry->path().string());
  }
  if (error) return absl::UnavailableError("cannot list " + path + ": " + error.message());
  for (const std::string& file : files) {
    const absl::Status removed = RemoveFile(file);
    if (!absl::IsNotFound(removed)) RETURN_IF_ERROR(removed);
  }
  RETURN_IF_ERROR(Announce("rmdir", path));
  return rmdir(path.c_str()) == 0 || errno == ENOENT ? absl::OkStatus() : Failed("remove " + path);
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

void RemoveOrWarn(const Disk& disk, const std::string& path) {
  const absl::Status removed = disk.RemoveDirectory(path);
  if (removed.ok()) return;
  kernels::Log(kernels::Severity::kWarning, std::string(removed.message()) + "; nothing reads " +
                                                path + " any more: remove it by hand");
}

absl::Status Retire(const Disk& disk, const std::string& parent, const std::string& path,
                    const std::string& base) {
  std::string removed = base + kRemoved;
  for (int i = 2; Exists(removed); ++i) removed = absl::StrCat(base, kRemoved, "-", i);
  RETURN_IF_ERROR(disk.Rename(path, removed));
  RETURN_IF_ERROR(disk.SyncDirectory(parent));
  RemoveOrWarn(disk, removed);
  return absl::OkStatus();
}

absl::Status Publish(const Disk& disk, const std::string& parent, const std::string& temporary,
                     const std::string& final) {
  const std::string to = parent + "/" + final, from = parent + "/" + temporary;
  RETURN_IF_ERROR(disk.SyncDirectory(from));
  RETURN_IF_ERROR(BringBack(disk, parent, final));
  if (!Exists(to)) {
    RETURN_IF_ERROR(disk.Rename(from, to));
    return disk.SyncDirectory(parent);
  }
  const absl::Status exchanged = disk.Exchange(from, to);
  if (absl::IsUnimplemented(exchanged)) return Replace(disk, parent, from, to);
  RETURN_IF_ERROR(exchanged);
  RETURN_IF_ERROR(disk.SyncDirectory(parent));
  RemoveOrWarn(disk, from);
  return absl::OkStatus();
}

absl::Status BringBack(const Disk& disk, const std::string& parent, const std::string& final) {
  const std::string name = parent + "/" + final, replaced = name + kReplaced;
  if (!Exists(replaced)) return absl::OkStatus();
  if (Exists(name)) return Retire(disk, parent, replaced, name);
  RETURN_IF_ERROR(disk.Rename(replaced, name));
  return disk.SyncDirectory(parent);
}

}  // namespace muster::runtime
