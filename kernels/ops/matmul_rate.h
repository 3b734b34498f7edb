#pragma once
// The rate of matrix products that this machine really reaches: what peak=measured counts model
// FLOPs utilisation against.
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/device/device.h"

namespace muster::kernels {

// FLOP/s of Matmul (b transposed, as in a linear layer's forward) on square matrices of random
// values: the median of at least five products over at least 0.3 s, after a warm-up. The matrices
// are 1024 wide on CPU and 8192 on CUDA, where smaller ones do not fill the device. On CPU it runs
// on `threads` threads; CUDA ignores that.
// Errors: a dtype other than fp32 and bf16, threads < 1, no memory, no CUDA kernel.
absl::StatusOr<double> MeasureMatmulRate(Device device, DType dtype, int threads);

}  // namespace muster::kernels
