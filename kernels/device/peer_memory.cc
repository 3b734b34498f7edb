#include "kernels/device/peer_memory.h"

#include <utility>

#include "kernels/base/error.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_peer.h"
#endif

namespace muster::kernels {
namespace {

absl::Status NotShared(Device device) {
  return absl::FailedPreconditionError(Name(device) +
                                       " does not share its memory between processes; CUDA does");
}

}  // namespace

absl::StatusOr<MemoryHandle> ExportMemory([[maybe_unused]] const void* data, Device device) {
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda) return cuda::Export(data, device);
#endif
  return NotShared(device);
}

absl::StatusOr<PeerMemory> PeerMemory::Map([[maybe_unused]] const MemoryHandle& handle,
                                           Device device) {
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda) {
    PeerMemory memory;
    ASSIGN_OR_RETURN(memory.mapped_, cuda::Map(handle, device));
    memory.data_ = static_cast<char*>(memory.mapped_) + handle.offset_bytes;
    memory.device_ = device;
    return memory;
  }
#endif
  return NotShared(device);
}

PeerMemory::PeerMemory(PeerMemory&& other) noexcept { *this = std::move(other); }

PeerMemory& PeerMemory::operator=(PeerMemory&& other) noexcept {
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(device_, other.device_);
  return *this;
}

PeerMemory::~PeerMemory() {
#ifdef MUSTER_WITH_CUDA
  if (mapped_ != nullptr) cuda::Unmap(mapped_, device_);
#endif
}

}  // namespace muster::kernels
