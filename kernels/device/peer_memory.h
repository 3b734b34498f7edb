#pragma once
// Memory of one process's GPU in the address space of another process on the same host, whose GPU
// then copies to it over NVLink or PCIe. By CUDA's interprocess handles, which plain allocations
// have: the arena needs no allocator of its own, and no multicast object is ever made. The CPU has
// nothing of the kind here: its ranks send messages.
#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device.h"

namespace muster::kernels {

// Names a place in another process's memory: plain bytes, to be sent there.
struct MemoryHandle {
  std::array<char, 64> allocation{};  // the driver's name of the allocation
  int64_t offset_bytes = 0;           // of the place within it
};

// `data`: in memory from DeviceBuffer. Errors: not on CUDA; the driver's.
absl::StatusOr<MemoryHandle> ExportMemory(const void* data, Device device);

// Keeps the allocation mapped for `device`. Must end before the process that owns the memory frees
// it: who shares memory meets before ending.
class PeerMemory {
 public:
  // Errors: not on CUDA; a process of another host; a GPU that `device` cannot reach; the driver's.
  static absl::StatusOr<PeerMemory> Map(const MemoryHandle& handle, Device device);
  PeerMemory(PeerMemory&& other) noexcept;
  PeerMemory& operator=(PeerMemory&& other) noexcept;
  ~PeerMemory();
  void* data() const { return data_; }

 private:
  PeerMemory() = default;
  void* mapped_ = nullptr;  // the allocation
  void* data_ = nullptr;    // the place within it
  Device device_;
};

}  // namespace muster::kernels
