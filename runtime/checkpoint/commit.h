#pragma once
// Every system call by which a save changes the disk, in the order that makes a commit: files are
// written and synced, then their directory, then a rename makes them visible, then its directory is
// synced. A hook sees each call first, so that tests can end the process, or fail the call, between
// any two of them. Large files are written past the page cache where the file system can.
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

// `call` is the system call's name: "open", "write", "fsync", "rename", ... An error is returned
// to the caller in place of the call.
using DiskHook = std::function<absl::Status(const std::string& call, const std::string& path)>;

// Of memory, offsets and sizes when a file is open with O_DIRECT, for any common disk.
constexpr size_t kDirectAlignment = 4096;

struct ByteSpan {
  const void* data = nullptr;
  size_t bytes = 0;
};

// Errors name the path; ResourceExhausted when there is no space.
class Disk {
 public:
  explicit Disk(DiskHook hook = nullptr) : hook_(std::move(hook)) {}

  // A new file (O_EXCL, mode 0600, no symlink followed), written and synced; its directory is not.
  // A file that could not be written whole is removed.
  absl::Status WriteNew(const std::string& path, const std::vector<ByteSpan>& content) const;
  // The same in parts: a new file to Append to, which the caller closes.
  absl::StatusOr<int> CreateNew(const std::string& path) const;
  absl::Status Append(int fd, const std::string& path, const char* data, size_t bytes) const {
    return Write(fd, path, data, bytes);
  }
  absl::Status MakeDirectory(const std::string& path) const;  // mode 0700; it must not exist
  absl::Status SyncDirectory(const std::string& path) const;
  absl::Status Rename(const std::string& from, const std::string& to) const;  // never replaces
  absl::Status Link(const std::string& from, const std::string& to) const;    // a second name
  // Both exist; atomic. Unimplemented where the file system (NFS) cannot.
  absl::Status Exchange(const std::string& a, const std::string& b) const;
  absl::Status RemoveFile(const std::string& path) const;
  // A directory of plain files. Refuses symlinks and directories within. What is gone already, or
  // goes meanwhile, is no error.
  absl::Status RemoveDirectory(const std::string& path) const;

 private:
  absl::Status Announce(const char* call, const std::string& path) const;
  absl::Status Write(int fd, const std::string& path, const char* data, size_t bytes) const;
  absl::Status WriteDirect(int fd, const std::string& path,
                           const std::vector<ByteSpan>& content) const;
  absl::Status WriteAndSync(int fd, const std::string& path,
                            const std::vector<ByteSpan>& content) const;
  DiskHook hook_;
};

// Whether something has this name; a symlink counts, wherever it leads.
bool Exists(const std::string& path);

constexpr char kRemoved[] = ".removed";
// Removes a directory that nobody reads any more. If that fails it is logged, for a person to do.
void RemoveOrWarn(const Disk& disk, const std::string& path);
// Takes `path`, in `parent`, out of use: it becomes <base>.removed, or .removed-<i> if what could
// not be removed before has that name, and then goes (RemoveOrWarn). Errors: it cannot be renamed.
absl::Status Retire(const Disk& disk, const std::string& parent, const std::string& path,
                    const std::string& base);

// Makes `temporary` (whose files are written and synced) visible as `final`, both in `parent`. If
// `final` exists it is replaced in one step and then removed: there is never a moment without one.
// File systems that cannot exchange names (NFS) have such a moment: there it is first renamed to
// <final>.replaced, which is whole, and is `final` again by a rename back (BringBack) should this
// process die then. An error means that `final` is what it was, or that the disk did not confirm
// the new one; if only the old one cannot be removed, that is logged.
absl::Status Publish(const Disk& disk, const std::string& parent, const std::string& temporary,
                     const std::string& final);

constexpr char kReplaced[] = ".replaced";
// After a Publish of `final` that did not get to its end: `final` is what it was before if it had
// gone, and what it replaced is retired if it had not.
absl::Status BringBack(const Disk& disk, const std::string& parent, const std::string& final);

}  // namespace muster::runtime
