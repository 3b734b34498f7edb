#include "runtime/checkpoint/storage_speed.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/seconds_since.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/job/file_error.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlockBytes = int64_t{16} << 20;

// A directory of our own that goes with the scope.
class Scratch {
 public:
  explicit Scratch(const std::string& parent) : path_(parent + "/speed-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) status_ = FileError("make " + path_, errno);
  }
  ~Scratch() {
    std::error_code ignored;
    if (status_.ok()) fs::remove_all(path_, ignored);
  }
  const absl::Status& status() const { return status_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  absl::Status status_;
};

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int operator*() const { return fd_; }

 private:
  const int fd_;
};

using Block = std::unique_ptr<char, decltype(&std::free)>;

// Past the page cache, where the file system can.
int OpenForSpeed(const std::string& path, int flags, bool* direct) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC | O_DIRECT, 0600);
  *direct = fd >= 0;
  return fd >= 0 ? fd : open(path.c_str(), flags | O_CLOEXEC, 0600);
}

absl::Status MeasureDisk(const std::string& path, StorageSpeed* speed) {
  Block block(static_cast<char*>(std::aligned_alloc(kDirectAlignment, kBlockBytes)), &std::free);
  if (block == nullptr) return absl::ResourceExhaustedError("no memory for a block of 16 MiB");
  for (int64_t i = 0; i < kBlockBytes; ++i) block.get()[i] = static_cast<char>(i * 2654435761 >> 9);
  int64_t begin_ns = kernels::MonotonicNs();
  {
    const Descriptor file(OpenForSpeed(path, O_WRONLY | O_CREAT | O_EXCL, &speed->direct));
    if (*file < 0) return FileError("create " + path, errno);
    for (int64_t at = 0; at < speed->bytes; at += kBlockBytes) {
      const ssize_t wanted = static_cast<ssize_t>(std::min(kBlockBytes, speed->bytes - at));
      if (write(*file, block.get(), static_cast<size_t>(wanted)) != wanted) {
        return FileError("write " + path, errno);
      }
    }
    if (fsync(*file) != 0) return FileError("sync " + path, errno);
  }
  speed->disk_write = static_cast<double>(speed->bytes) / SecondsSince(begin_ns);
  bool direct = false;
  const Descriptor file(OpenForSpeed(path, O_RDONLY, &direct));
  if (*file < 0) return FileError("open " + path, errno);
  begin_ns = kernels::MonotonicNs();
  for (ssize_t got = 1; got > 0;) {
    got = read(*file, block.get(), static_cast<size_t>(kBlockBytes));
    if (got < 0) return FileError("read " + path, errno);
  }
  speed->disk_read = static_cast<double>(speed->bytes) / SecondsSince(begin_ns);
  return absl::OkStatus();
}

absl::Status MeasureSave(const std::string& parent, const std::vector<float>& values,
                         StorageSpeed* speed) {
  const Disk disk;
  const CheckpointFacts facts{.step = 1};
  const std::string partial = parent + "/" + PartialName(facts);
  const LogicalRange all = LogicalRange::Whole({static_cast<int64_t>(values.size())});
  const int64_t begin_ns = kernels::MonotonicNs();
  RETURN_IF_ERROR(disk.MakeDirectory(partial));
  ASSIGN_OR_RETURN(const Manifest part,
                   WriteShard(disk, partial, ShardName(0, 1), facts,
                              {{"weight/w", kernels::DType::kFloat32, all, values.data()}}));
  RETURN_IF_ERROR(WriteRecord(disk, partial, 0, part));
  RETURN_IF_ERROR(CommitCheckpoint(disk, parent, PartialName(facts), 1, [] {
                    return absl::OkStatus();
                  }).status());
  speed->save = static_cast<double>(speed->bytes) / SecondsSince(begin_ns);
  return absl::OkStatus();
}

absl::Status MeasureLoad(const std::string& parent, std::vector<float>* values,
                         StorageSpeed* speed) {
  const std::string directory = parent + "/" + CheckpointName(1);
  {
    const Descriptor file(open((directory + "/" + ShardName(0, 1)).c_str(), O_RDONLY | O_CLOEXEC));
    if (*file >= 0 && speed->direct) posix_fadvise(*file, 0, 0, POSIX_FADV_DONTNEED);
  }
  const LogicalRange all = LogicalRange::Whole({static_cast<int64_t>(values->size())});
  const int64_t begin_ns = kernels::MonotonicNs();
  ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointReader> reader,
                   CheckpointReader::Open(directory));
  RETURN_IF_ERROR(reader->VerifyAll());
  RETURN_IF_ERROR(reader->Verify("weight/w", kernels::DType::kFloat32, all));
  RETURN_IF_ERROR(reader->Read("weight/w", all, values->data()));
  speed->load = static_cast<double>(speed->bytes) / SecondsSince(begin_ns);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StorageSpeed> MeasureStorageSpeed(const std::string& directory, int64_t bytes) {
  constexpr int64_t kUnit = int64_t{1} << 20;
  StorageSpeed speed;
  speed.bytes = std::max<int64_t>(1, (bytes + kUnit - 1) / kUnit) * kUnit;
  const Scratch scratch(directory);
  RETURN_IF_ERROR(scratch.status());
  RETURN_IF_ERROR(MeasureDisk(scratch.path() + "/own", &speed));
  std::vector<float> values(static_cast<size_t>(speed.bytes) / sizeof(float));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 9973);
  RETURN_IF_ERROR(MeasureSave(scratch.path(), values, &speed));
  RETURN_IF_ERROR(MeasureLoad(scratch.path(), &values, &speed));
  return speed;
}

}  // namespace muster::runtime
