#include "kernels/ops/device_opening.h"

namespace muster::kernels {

DeviceOpening::DeviceOpening([[maybe_unused]] Device device) {
#ifdef MUSTER_WITH_CUDA
  if (device.type == DeviceType::kCuda)
    thread_ = std::thread([device] { cuda::OpenDevice(device); });
#endif
}

void DeviceOpening::Wait() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace muster::kernels
