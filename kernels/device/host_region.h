#pragma once
// Host memory, of any content, that copies to and from a device fast, and that is taken bit by bit
// behind whatever else the process does. At once it would take seconds: a page of it must be there
// before a copy engine may write to it, and pinning gets through a few gigabytes a second. A thread
// takes chunk after chunk and rests as long as each took: pinning holds up CUDA calls of other
// threads, a chunk's for some milliseconds.
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device.h"
#include "kernels/device/stream.h"

namespace muster::kernels {

class HostRegion {
 public:
  static constexpr int64_t kChunkBytes = int64_t{64} << 20;
  // Addresses only. Errors: ResourceExhausted, if there are none.
  static absl::StatusOr<std::unique_ptr<HostRegion>> Reserve(Device device, int64_t bytes,
                                                             int64_t chunk_bytes = kChunkBytes);
  ~HostRegion();  // whatever has been taken
  HostRegion(const HostRegion&) = delete;
  HostRegion& operator=(const HostRegion&) = delete;

  // Begins to take the memory; does nothing if that has begun. Await does it too.
  void Prepare();
  // Until all of it is there, from now on without rests. Errors: status().
  absl::Status Await();
  // So far; does not wait. Errors: ResourceExhausted, with what was wanted.
  absl::Status status() const;
  int64_t taken_bytes() const;  // so far; likewise

  const char* data() const { return data_; }
  // Enqueues a copy to [offset, offset + bytes). Only after Await.
  void CopyFrom(const void* source, int64_t offset, int64_t bytes, StreamView stream);

 private:
  HostRegion(Device device, char* data, int64_t bytes, int64_t chunk_bytes)
      : device_(device), data_(data), bytes_(bytes), chunk_bytes_(chunk_bytes) {}
  void TakeAll();
  absl::Status Take(int64_t begin, int64_t end);

  const Device device_;
  char* const data_;
  const int64_t bytes_, chunk_bytes_;
  std::thread thread_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  int64_t taken_ = 0;  // bytes, from the first
  bool hurries_ = false, ends_ = false;
  absl::Status status_;
};

}  // namespace muster::kernels
