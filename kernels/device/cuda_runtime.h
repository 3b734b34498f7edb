#pragma once
// The CUDA side of kernels/device: streams, events and memory. Callers use stream.h and memory.h;
// this header exists so that those files need no CUDA header. A build without CUDA has none of it.
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/current_device.h"
#include "kernels/device/stream.h"

namespace muster::kernels::cuda {

int DeviceCount();
std::string ProductName(Device device);  // empty if there is no such device
std::string PciBusId(Device device);     // "0000:1b:00.0"; empty likewise
absl::StatusOr<std::unique_ptr<EventState>> MakeEvent(Device device);
absl::StatusOr<std::unique_ptr<StreamState>> MakeStream(Device device, const std::string& name,
                                                        StreamPriority priority);
absl::StatusOr<void*> AllocateDevice(Device device, int64_t bytes);
absl::StatusOr<void*> AllocatePinned(int64_t bytes);
void FreeDevice(Device device, void* data);
void FreePinned(void* data);
// Of memory that is there already. UnpinHost wants the same address again.
absl::Status PinHost(Device device, void* data, int64_t bytes);
void UnpinHost(void* data);
absl::Status CopyAsync(void* destination, const void* source, int64_t bytes, StreamView stream);
// Waits for it, on a stream of the calling thread's own, which costs no memory.
absl::Status FillZero(Device device, void* data, int64_t bytes);
absl::Status FillZeroAsync(void* destination, int64_t bytes, StreamView stream);

// Whether the device has got to the event's latest record; true of an event never recorded. Does
// not block. Errors: what earlier work on the device failed with.
absl::StatusOr<bool> IsReached(EventState& event);

// An event that carries a time, for kernels/device/span.
absl::StatusOr<std::unique_ptr<EventState>> MakeTimedEvent(Device device);
// Nanoseconds between two timed events; both must have completed.
absl::StatusOr<int64_t> ElapsedNs(EventState& begin, EventState& end);

}  // namespace muster::kernels::cuda
