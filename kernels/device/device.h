#pragma once
// Where memory lives and work runs: the host's processor, or one CUDA device.
#include <cstdint>
#include <string>

namespace muster::kernels {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

inline std::string Name(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

// Sets up the process for CUDA, before it or a library first asks for a device; without CUDA, and
// where the environment already says otherwise, does nothing. Streams share hardware queues, by
// default 8 of them, and one that waits holds up those that share its queue: a pipeline's receive
// would hold up the compute that lets it end. Every stream here gets a queue, up to 32 of them.
void PrepareProcess();

// How many devices of a type this process sees; 0 CUDA devices in a build without CUDA.
int DeviceCount(DeviceType type);

// What its driver calls a CUDA device, for example "NVIDIA H200"; empty for the CPU, or if there is
// no such device.
std::string ProductName(Device device);

// True in a build that contains the CUDA backend.
constexpr bool kBuiltWithCuda =
#ifdef MUSTER_WITH_CUDA
    true;
#else
    false;
#endif

}  // namespace muster::kernels
