#pragma once
// The CUDA side of flags.h and peer_memory.h, so that those need no CUDA header. A build without
// CUDA has none of it.
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/peer_memory.h"
#include "kernels/device/stream.h"

namespace muster::kernels::cuda {

absl::StatusOr<MemoryHandle> Export(const void* data, Device device);
absl::StatusOr<void*> Map(const MemoryHandle& handle, Device device);
void Unmap(void* mapped, Device device);
absl::Status Meet(const std::vector<uint32_t*>& raised, const std::vector<uint32_t*>& awaited,
                  uint32_t value, StreamView stream);
absl::Status OverrideFlags(uint32_t* flags, int count, uint32_t value, Device device);

}  // namespace muster::kernels::cuda
