#pragma once
// What the CUDA files of kernels/device share: an error as a Status, and a device made current.
#include <cuda_runtime.h>

#include <string>

#include "absl/status/status.h"
#include "kernels/base/error.h"
#include "kernels/device/device.h"

namespace muster::kernels::cuda {

inline absl::Status ToStatus(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return LibraryError(what + ": " + cudaGetErrorString(error));
}

// Makes `device` current for the scope and restores what was.
class CurrentDevice {
 public:
  explicit CurrentDevice(Device device) {
    cudaGetDevice(&before_);
    cudaSetDevice(device.index);
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = 0;
};

}  // namespace muster::kernels::cuda
