#include "kernels/device/memory.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/base/error.h"
#include "kernels/device/buffer_count.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {
namespace {

// Of the process, as the allocators are; only ever counted up.
std::atomic<int64_t> buffers_taken{0};

absl::StatusOr<void*> AllocateZeroedHost(int64_t bytes) {
  const int64_t rounded = (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment;
  void* data = std::aligned_alloc(kMemoryAlignment, static_cast<size_t>(rounded));
  if (data == nullptr) {
    return absl::ResourceExhaustedError("allocating " + std::to_string(bytes) +
                                        " bytes of host memory failed");
  }
  std::memset(data, 0, static_cast<size_t>(rounded));
  return data;
}

}  // namespace

int64_t NumBuffersTaken() { return buffers_taken.load(std::memory_order_relaxed); }

absl::StatusOr<DeviceBuffer> DeviceBuffer::Allocate(Device device, int64_t bytes) {
  MUSTER_CHECK(bytes >= 0);
  buffers_taken.fetch_add(1, std::memory_order_relaxed);
  if (device.type == DeviceType::kCpu) {
    ASSIGN_OR_RETURN(void* data, AllocateZeroedHost(bytes));
    return DeviceBuffer(data, bytes, device, Kind::kHost);
  }
#ifdef MUSTER_WITH_CUDA
  ASSIGN_OR_RETURN(void* data, cuda::AllocateDevice(device, bytes));
  DeviceBuffer buffer(data, bytes, device, Kind::kDevice);
  RETURN_IF_ERROR(cuda::FillZero(device, data, bytes));
  return buffer;
#else
  return absl::FailedPreconditionError("allocating on " + Name(device) +
                                       ": this binary was built without CUDA");
#endif
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::AllocateHost(Device device, int64_t bytes) {
  MUSTER_CHECK(bytes >= 0);
  buffers_taken.fetch_add(1, std::memory_order_relaxed);
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda) {
    ASSIGN_OR_RETURN(void* data, cuda::AllocatePinned(bytes));
    return DeviceBuffer(data, bytes, Device{}, Kind::kPinned);
  }
#endif
  (void)device;
  ASSIGN_OR_RETURN(void* data, AllocateZeroedHost(bytes));
  return DeviceBuffer(data, bytes, Device{}, Kind::kHost);
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  switch (kind_) {
    case Kind::kHost:
      std::free(data_);
      return;
#ifdef MUSTER_WITH_CUDA
    case Kind::kDevice:
      cuda::FreeDevice(device_, data_);
      return;
    case Kind::kPinned:
      cuda::FreePinned(data_);
      return;
#else
    case Kind::kDevice:
    case Kind::kPinned:
      return;
#endif
  }
}

void CopyAsync(void* destination, const void* source, int64_t bytes, StreamView stream) {
  if (bytes == 0 || destination == source) return;
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == DeviceType::kCuda) {
    stream.Fail(cuda::CopyAsync(destination, source, bytes, stream));
    return;
  }
#endif
  stream.Enqueue([=] { std::memcpy(destination, source, static_cast<size_t>(bytes)); });
}

void FillZeroAsync(void* destination, int64_t bytes, StreamView stream) {
  if (bytes == 0) return;
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == DeviceType::kCuda) {
    stream.Fail(cuda::FillZeroAsync(destination, bytes, stream));
    return;
  }
#endif
  stream.Enqueue([=] { std::memset(destination, 0, static_cast<size_t>(bytes)); });
}

}  // namespace muster::kernels
