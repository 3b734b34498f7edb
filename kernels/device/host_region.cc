#include "kernels/device/host_region.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {

absl::StatusOr<std::unique_ptr<HostRegion>> HostRegion::Reserve(Device device, int64_t bytes,
                                                                int64_t chunk_bytes) {
  MUSTER_CHECK(bytes > 0 && chunk_bytes > 0 && chunk_bytes % sysconf(_SC_PAGESIZE) == 0)
      << bytes << " bytes in chunks of " << chunk_bytes;
  void* const data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError("reserving " + std::to_string(bytes) +
                                        " bytes of host memory: " + std::strerror(errno));
  }
  // Fewer pages to pin, where the system has huge ones; else nothing.
  (void)madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return std::unique_ptr<HostRegion>(
      new HostRegion(device, static_cast<char*>(data), bytes, chunk_bytes));
}

HostRegion::~HostRegion() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
#ifdef MUSTER_WITH_CUDA
  for (int64_t begin = 0; device_.type == DeviceType::kCuda && begin < taken_;
       begin += chunk_bytes_) {
    cuda::UnpinHost(data_ + begin);
  }
#endif
  munmap(data_, static_cast<size_t>(bytes_));
}

void HostRegion::Prepare() {
  if (thread_.joinable()) return;
  thread_ = std::thread([this] { TakeAll(); });
}

absl::Status HostRegion::Await() {
  Prepare();
  std::unique_lock lock(mutex_);
  hurries_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return taken_ == bytes_ || !status_.ok(); });
  return status_;
}

absl::Status HostRegion::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

int64_t HostRegion::taken_bytes() const {
  const std::lock_guard lock(mutex_);
  return taken_;
}

void HostRegion::TakeAll() {
  using Clock = std::chrono::steady_clock;
  for (int64_t begin = 0; begin < bytes_;) {
    const int64_t end = std::min(begin + chunk_bytes_, bytes_);
    const Clock::time_point began = Clock::now();
    const absl::Status status = Take(begin, end);
    const Clock::duration took = Clock::now() - began;
    std::unique_lock lock(mutex_);
    status_ = status;
    if (status.ok()) taken_ = end;
    changed_.notify_all();
    if (!status.ok()) return;
    begin = end;
    if (begin < bytes_) changed_.wait_for(lock, took, [this] { return hurries_ || ends_; });
    if (ends_) return;
  }
}

absl::Status HostRegion::Take(int64_t begin, int64_t end) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  for (int64_t at = begin; at < end; at += page) {
    *static_cast<volatile char*>(data_ + at) = 0;  // takes the page
  }
#ifdef MUSTER_WITH_CUDA
  if (device_.type == DeviceType::kCuda) {
    return Annotate(cuda::PinHost(device_, data_ + begin, end - begin),
                    "taking " + std::to_string(bytes_) + " bytes of pinned host memory");
  }
#endif
  return absl::OkStatus();
}

// Chunks are pinned one by one, and a copy to two of them would be one to memory that is not.
void HostRegion::CopyFrom(const void* source, int64_t offset, int64_t bytes, StreamView stream) {
  MUSTER_CHECK(offset >= 0 && bytes >= 0 && offset + bytes <= bytes_)
      << offset << " + " << bytes << " of " << bytes_;
  const char* from = static_cast<const char*>(source);
  for (int64_t done = 0; done < bytes;) {
    const int64_t to = offset + done;
    const int64_t part = std::min(bytes - done, chunk_bytes_ - to % chunk_bytes_);
    CopyAsync(data_ + to, from + done, part, stream);
    done += part;
  }
}

}  // namespace muster::kernels
