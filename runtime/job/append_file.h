#pragma once
// A file of records (lines, frames) that grows while a job runs: others may be reading it, a crash
// may cut it, and its disk may fail. A record is one write(2); one that the disk took only in part
// is cut off again, so that the file ends with a whole one.
//
// A disk that fails never stops the job. What it does not take waits in memory, in order, and goes
// out in front of the next record that finds room; what is more than kMostWaitingBytes is lost. The
// log has a line when that begins (of the 1st, 2nd, 4th, 8th time), one when all is written after
// all, and one at the end if something never was. Not thread-safe.
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muster::runtime {

class AppendFile {
 public:
  enum class Start {
    kNew,    // must not exist
    kEmpty,  // what it held is dropped
    kAsIs,   // appended to, if it exists
    kLines,  // the same, but a last line that a crash cut short is cut off first
  };
  // Some thousand steps of the ledger and the metrics.
  static constexpr size_t kMostWaitingBytes = size_t{2} << 20;

  // Mode 0600; no symlink is followed for a new one. Errors name the path; AlreadyExists.
  static absl::StatusOr<std::unique_ptr<AppendFile>> Open(const std::string& path, Start start);
  ~AppendFile();  // as Finish, if that was not called
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void Append(std::string_view record);
  void Drop() { ++num_lost_; }  // a record that must not stand behind those that are lost
  // Tries what waits; true if nothing does any more.
  bool Flush();
  // No more records come. Tries what waits once more; what the disk does not take now is lost.
  void Finish();
  absl::Status Sync() const;  // fdatasync

  const std::string& path() const { return path_; }
  int64_t num_lost() const { return num_lost_; }                    // records
  const absl::Status& first_error() const { return first_error_; }  // see FileError

 private:
  AppendFile(int file, std::string path) : file_(file), path_(std::move(path)) {}
  bool Put(std::string_view record);
  void Hold(std::string_view record);
  void Failed(int error);

  const int file_;
  const std::string path_;
  std::deque<std::string> waiting_;
  size_t waiting_bytes_ = 0, torn_bytes_ = 0;  // torn: of the front record, already in the file
  int64_t num_lost_ = 0, num_late_ = 0, episodes_ = 0;
  bool failing_ = false, losing_ = false;  // losing: until all that waits is written
  bool finished_ = false;
  absl::Status first_error_;
};

}  // namespace muster::runtime
