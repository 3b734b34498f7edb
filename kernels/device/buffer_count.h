#pragma once
// How many buffers the process has taken from the devices' allocators so far (DeviceBuffer, on host
// and device). After a job's first step it stays: a step takes none.
#include <cstdint>

namespace muster::kernels {

int64_t NumBuffersTaken();

}  // namespace muster::kernels
