#pragma once
// What CUDA files share: an error of the CUDA runtime as a Status.
#include <cuda_runtime.h>

#include <string>

#include "absl/status/status.h"
#include "kernels/base/error.h"

namespace muster::kernels::cuda {

inline absl::Status ToStatus(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // else the next check of a launch finds it again, and this one may be borne
  return LibraryError(what + ": " + cudaGetErrorString(error));
}

}  // namespace muster::kernels::cuda
