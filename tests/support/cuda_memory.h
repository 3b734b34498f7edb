#pragma once
// What is free on a GPU, which whatever else runs there takes from, too.
#include <cstdint>

#include "kernels/base/error.h"
#include "kernels/device/device.h"
#ifdef MUSTER_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace muster::kernels {

inline int64_t FreeDeviceBytes(Device device) {
#ifdef MUSTER_WITH_CUDA
  size_t free = 0, total = 0;
  MUSTER_CHECK(cudaSetDevice(device.index) == cudaSuccess &&
               cudaMemGetInfo(&free, &total) == cudaSuccess)
      << "asking " << Name(device) << " for its memory";
  return static_cast<int64_t>(free);
#else
  MUSTER_CHECK(false) << "a build without CUDA asks for the memory of " << Name(device);
  return 0;
#endif
}

}  // namespace muster::kernels
