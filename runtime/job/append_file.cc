#include "runtime/job/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

using kernels::Log;
using kernels::Severity;

// The size just behind the last newline.
off_t EndOfLines(int file, off_t size) {
  for (char c = 0; size > 0 && pread(file, &c, 1, size - 1) == 1 && c != '\n';) --size;
  return size;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AppendFile>> AppendFile::Open(const std::string& path, Start start) {
  const int how = start == Start::kNew     ? O_WRONLY | O_EXCL | O_NOFOLLOW
                  : start == Start::kEmpty ? O_WRONLY | O_TRUNC
                                           : O_RDWR;
  const int file = open(path.c_str(), how | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 && errno == EEXIST) return absl::AlreadyExistsError(path + " exists");
  if (file < 0) return FileError("open " + path + " for appending", errno);
  std::unique_ptr<AppendFile> opened(new AppendFile(file, path));
  if (start != Start::kLines) return opened;
  const off_t size = lseek(file, 0, SEEK_END), end = EndOfLines(file, size);
  if (end < size && ftruncate(file, end) != 0) {
    return FileError("cut the torn last line off " + path, errno);
  }
  return opened;
}

AppendFile::~AppendFile() {
  Finish();
  close(file_);
}

// The record, from where it was torn. False: it has to wait.
bool AppendFile::Put(std::string_view record) {
  while (torn_bytes_ < record.size()) {
    const std::string_view rest = record.substr(torn_bytes_);
    const ssize_t written = write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = written < 0 ? errno : ENOSPC;
      const off_t end = torn_bytes_ > 0 ? lseek(file_, 0, SEEK_END) : 0;
      // If it cannot be cut off, the next try goes on behind what is there.
      if (torn_bytes_ > 0 && ftruncate(file_, end - static_cast<off_t>(torn_bytes_)) == 0) {
        torn_bytes_ = 0;
      }
      Failed(error);
      return false;
    }
    torn_bytes_ += static_cast<size_t>(written);
  }
  torn_bytes_ = 0;
  return true;
}

void AppendFile::Append(std::string_view record) {
  if (!Flush() || !Put(record)) Hold(record);
}

bool AppendFile::Flush() {
  while (!waiting_.empty()) {
    if (!Put(waiting_.front())) return false;
    waiting_bytes_ -= waiting_.front().size();
    waiting_.pop_front();
    ++num_late_;
  }
  losing_ = false;
  if (std::exchange(failing_, false) && std::has_single_bit(static_cast<uint64_t>(episodes_))) {
    Log(Severity::kInfo, absl::StrCat(path_, " is written again; ", num_late_,
                                      " records came late, ", num_lost_, " are lost"));
  }
  return true;
}

// Once one is lost, so is all until there is room: one gap, not many.
void AppendFile::Hold(std::string_view record) {
  if (!losing_ && waiting_bytes_ + record.size() <= kMostWaitingBytes) {
    waiting_bytes_ += record.size();
    waiting_.emplace_back(record);
    return;
  }
  ++num_lost_;
  if (!std::exchange(losing_, true)) {
    Log(Severity::kError, absl::StrCat(path_, ": ", waiting_.size(),
                                       " records wait for room; what comes now is lost"));
  }
}

void AppendFile::Failed(int error) {
  const absl::Status status = FileError("write " + path_, error);
  if (first_error_.ok()) first_error_ = status;
  if (std::exchange(failing_, true) || !std::has_single_bit(static_cast<uint64_t>(++episodes_))) {
    return;
  }
  Log(Severity::kError,
      absl::StrCat(std::string(status.message()),
                   "; training goes on, and what belongs there waits until it can"));
}

void AppendFile::Finish() {
  if (std::exchange(finished_, true)) return;
  Flush();
  num_lost_ += static_cast<int64_t>(waiting_.size());
  waiting_.clear();
  waiting_bytes_ = 0;
  if (num_lost_ > 0) {
    Log(Severity::kError, absl::StrCat(num_lost_, " records of ", path_,
                                       " are lost: ", std::string(first_error_.message())));
  }
}

absl::Status AppendFile::Sync() const {
  return fdatasync(file_) == 0 ? absl::OkStatus() : FileError("sync " + path_, errno);
}

}  // namespace muster::runtime
