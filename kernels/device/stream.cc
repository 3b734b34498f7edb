#include "kernels/device/stream.h"

#include "kernels/base/error.h"
#include "kernels/device/cpu_stream.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {
namespace {

[[maybe_unused]] absl::Status WithoutCuda(Device device) {
  return absl::FailedPreconditionError(
      "device " + Name(device) +
      " was asked for, but this binary was built without CUDA; build with `cmake --preset gpu`, or "
      "set device: CPU");
}

}  // namespace

void PrepareProcess() {
  if (kBuiltWithCuda) setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
}

int DeviceCount(DeviceType type) {
  if (type == DeviceType::kCpu) return 1;
#ifdef MUSTER_WITH_CUDA
  return cuda::DeviceCount();
#else
  return 0;
#endif
}

std::string ProductName([[maybe_unused]] Device device) {
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda) return cuda::ProductName(device);
#endif
  return "";
}

absl::StatusOr<Event> Event::Create(Device device) {
  if (device.type == DeviceType::kCpu) return Event(MakeCpuEvent());
#ifdef MUSTER_WITH_CUDA
  ASSIGN_OR_RETURN(auto state, cuda::MakeEvent(device));
  return Event(std::move(state));
#else
  return WithoutCuda(device);
#endif
}

absl::StatusOr<Stream> Stream::Create(Device device, StreamMode mode, std::string name,
                                      [[maybe_unused]] StreamPriority priority) {
  if (device.type == DeviceType::kCpu) {
    return Stream(mode == StreamMode::kInline ? MakeCpuInlineStream() : MakeCpuQueueStream(name));
  }
#ifdef MUSTER_WITH_CUDA
  ASSIGN_OR_RETURN(auto state, cuda::MakeStream(device, name, priority));
  return Stream(std::move(state));
#else
  return WithoutCuda(device);
#endif
}

}  // namespace muster::kernels
