#pragma once
// A file that appears whole or not at all: written under a temporary name beside its target,
// created exclusively with mode 0600, synced, renamed, and its directory synced. Without Commit
// nothing remains.
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

class AtomicFile {
 public:
  // Errors: the directory does not exist or cannot be written.
  static absl::StatusOr<std::unique_ptr<AtomicFile>> Create(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  absl::Status Write(const void* data, size_t bytes);
  // Overwrites bytes written before: a header that is known only at the end.
  absl::Status WriteAt(size_t offset, const void* data, size_t bytes);
  absl::Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  std::string path_, temporary_;
  int fd_;
};

// Create, Write, Commit in one.
absl::Status WriteFileAtomically(const std::string& path, const std::string& text);

}  // namespace muster::runtime
