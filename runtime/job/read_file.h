#pragma once
// Files that are read in parts, by pread: what a disk cannot read, or a file that was cut
// meanwhile, is a Status, where a mapping would end the process with SIGBUS. Symlinks are not
// followed.
#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

class ReadFile {
 public:
  // Errors: see FileError; DataLoss if it is a symlink or no regular file.
  static absl::StatusOr<ReadFile> Open(const std::string& path);
  ReadFile(ReadFile&& other) noexcept;
  ReadFile& operator=(ReadFile&& other) noexcept;
  ~ReadFile();

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // when it was opened
  // bytes [offset, offset + bytes) of the file. Errors (DataLoss, with path and offset): it ends
  // before; the disk cannot read it. What is in `out` then is not to be used. Any thread.
  absl::Status Read(int64_t offset, void* out, int64_t bytes) const;
  // [offset, offset + bytes) will be read soon.
  void Announce(int64_t offset, int64_t bytes) const;

 private:
  friend class ReadDirectory;
  static absl::StatusOr<ReadFile> OpenAt(int directory, const char* name, const std::string& path);
  ReadFile(int file, std::string path, int64_t size)
      : file_(file), path_(std::move(path)), size_(size) {}
  int file_;
  std::string path_;
  int64_t size_;
};

// A directory whose files are opened beneath it, whatever becomes of its path meanwhile.
class ReadDirectory {
 public:
  // Errors: see FileError; DataLoss if it is a symlink.
  static absl::StatusOr<ReadDirectory> Open(const std::string& path);
  ReadDirectory(ReadDirectory&& other) noexcept;
  ReadDirectory& operator=(ReadDirectory&&) = delete;
  ~ReadDirectory();

  // `name` is a basename. Errors: those of ReadFile::Open.
  absl::StatusOr<ReadFile> OpenFile(const std::string& name) const;
  const std::string& path() const { return path_; }

 private:
  ReadDirectory(int directory, std::string path) : directory_(directory), path_(std::move(path)) {}
  int directory_;
  std::string path_;
};

}  // namespace muster::runtime
