#pragma once
// A whole file, mapped read-only. A file that shrinks while it is mapped ends the process with
// SIGBUS, as with every mapping: data files must not be edited in place.
#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace muster::runtime {

class MappedFile {
 public:
  // Errors: not found, not readable, not a regular file.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  const char* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  MappedFile(std::string path, const char* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const char* data_;  // nullptr if size_ is 0
  size_t size_;
};

}  // namespace muster::runtime
