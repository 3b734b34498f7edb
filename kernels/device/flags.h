#pragma once
// Flags: 32-bit counters in device memory that only grow, modulo 2^32. Streams of several devices
// wait for each other by them without a kernel, so a wait takes no multiprocessor: on CUDA they are
// stream memory operations (cuStreamBatchMemOp), on the CPU atomics, for threads of one process.
#include <cstdint>
#include <vector>

#include "kernels/device/stream.h"

namespace muster::kernels {

// Once all earlier work of the stream is done and can be seen by others, sets `raised` to `value`;
// later work waits until each of `awaited` is at `value` or past it. An error is left in the
// stream.
void MeetAsync(const std::vector<uint32_t*>& raised, const std::vector<uint32_t*>& awaited,
               uint32_t value, StreamView stream);

// Sets `count` flags of `device` from the host, at once, whatever its streams do: those that wait
// go on. For giving up.
void OverrideFlags(uint32_t* flags, int count, uint32_t value, Device device);

}  // namespace muster::kernels
