#pragma once
// Owned memory, and the only callers of the devices' allocators. Training memory is not taken here
// piece by piece: kernels/device/arena.h plans it and takes it once.
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device.h"
#include "kernels/device/stream.h"

namespace muster::kernels {

constexpr int64_t kMemoryAlignment = 256;  // bytes; of every buffer and every block of an arena

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Zeroed memory. Errors: ResourceExhausted with bytes and device.
  static absl::StatusOr<DeviceBuffer> Allocate(Device device, int64_t bytes);
  // Host memory that copies to and from `device` fast (pinned for CUDA, plain for CPU), of any
  // content. Pinning takes about a second for each few gigabytes.
  static absl::StatusOr<DeviceBuffer> AllocateHost(Device device, int64_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  enum class Kind { kHost, kDevice, kPinned };
  DeviceBuffer(void* data, int64_t bytes, Device device, Kind kind)
      : data_(data), bytes_(bytes), device_(device), kind_(kind) {}
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  Kind kind_ = Kind::kHost;
};

// Both enqueue and return; an error is left in the stream. Ranges must not overlap.
void CopyAsync(void* destination, const void* source, int64_t bytes, StreamView stream);
void FillZeroAsync(void* destination, int64_t bytes, StreamView stream);

}  // namespace muster::kernels
