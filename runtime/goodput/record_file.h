#pragma once
// A ledger file under a writer: created exclusively, mode 0600, appended to with one write(2) a
// record. A record that the disk took only in part is taken back.
#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/goodput/ledger_record.h"

namespace muster::runtime {

class RecordFile {
 public:
  // Makes the directories above it. Errors: AlreadyExists, with the path; PermissionDenied.
  static absl::StatusOr<RecordFile> Create(const std::string& path);
  RecordFile(RecordFile&& other) noexcept;
  RecordFile& operator=(RecordFile&&) = delete;
  ~RecordFile();

  // Errors: Unavailable, naming the file.
  absl::Status Append(RecordBuilder& record);
  absl::Status Sync() const;  // fdatasync
  const std::string& path() const { return path_; }

 private:
  RecordFile(int file, std::string path) : file_(file), path_(std::move(path)) {}
  int file_;
  std::string path_;
  off_t bytes_ = 0;
};

}  // namespace muster::runtime
