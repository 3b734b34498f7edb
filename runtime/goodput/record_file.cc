#include "runtime/goodput/record_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muster::runtime {

absl::StatusOr<RecordFile> RecordFile::Create(const std::string& path) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("cannot make the ledger's directory ",
                                                    directory.string(), ": ", error.message(),
                                                    "; choose another run directory (--run)"));
  }
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
  if (file >= 0) return RecordFile(file, path);
  if (errno == EEXIST) return absl::AlreadyExistsError(absl::StrCat(path, " exists"));
  return absl::PermissionDeniedError(
      absl::StrCat("cannot create the ledger ", path, ": ", std::strerror(errno)));
}

RecordFile::RecordFile(RecordFile&& other) noexcept
    : file_(std::exchange(other.file_, -1)), path_(std::move(other.path_)), bytes_(other.bytes_) {}

RecordFile::~RecordFile() {
  if (file_ >= 0) close(file_);
}

absl::Status RecordFile::Append(RecordBuilder& record) {
  const std::string_view bytes = record.Finish();
  ssize_t written;
  do {
    written = write(file_, bytes.data(), bytes.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(bytes.size())) {
    bytes_ += written;
    return absl::OkStatus();
  }
  const std::string error = written < 0
                                ? std::string(std::strerror(errno))
                                : absl::StrCat(written, " bytes of ", bytes.size(), " were taken");
  // A torn record would hide what is appended after it.
  const bool restored = written <= 0 || ftruncate(file_, bytes_) == 0;
  return absl::UnavailableError(absl::StrCat("cannot append to the goodput ledger ", path_, ": ",
                                             error, restored ? "" : "; a torn record stays in it"));
}

absl::Status RecordFile::Sync() const {
  if (fdatasync(file_) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot sync the goodput ledger ", path_, ": ", std::strerror(errno)));
}

}  // namespace muster::runtime
