#pragma once
// Opens a CUDA device and loads the libraries behind its operators, on a thread of its own, while
// the process does what needs none of them: CUDA's state of a device takes half a second and more
// to make, and cuBLASLt and cuDNN are some hundred megabytes to read. Nothing on a CPU.
//
// Errors are met, and told, by whoever uses the device next. While it goes on, libraries read the
// environment: Wait before anything changes that.
#include <thread>

#include "kernels/device/device.h"

namespace muster::kernels {

class DeviceOpening {
 public:
  explicit DeviceOpening(Device device);
  ~DeviceOpening() { Wait(); }
  DeviceOpening(const DeviceOpening&) = delete;
  DeviceOpening& operator=(const DeviceOpening&) = delete;
  void Wait();

 private:
  std::thread thread_;
};

namespace cuda {
void OpenDevice(Device device);
}

}  // namespace muster::kernels
