#pragma once
// The CUDA device that the calling thread works on. Defined in cuda_runtime.cu.
#include "kernels/device/device.h"

namespace muster::kernels::cuda {

// Makes the device current, as launches on its streams want. Nobody makes the one before current
// again: where there was none, that would open the host's first device.
void MakeCurrent(Device device);

}  // namespace muster::kernels::cuda
