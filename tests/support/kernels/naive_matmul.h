#pragma once
// The reference product of the matmul tests: three loops in fp64 over any strides.
#include <vector>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

// The transpose of a matrix, sharing its memory.
inline TensorView Transposed(TensorView x) {
  const Shape shape = x.shape, strides = x.strides;
  x.shape = {shape[1], shape[0]};
  x.strides = {strides[1], strides[0]};
  return x;
}

// a [M, K] times b [K, N], row-major.
inline std::vector<double> NaiveMatmul(const TensorView& a, const TensorView& b) {
  const int64_t m = a.shape[0], k = a.shape[1], n = b.shape[1];
  const std::vector<double> a_values = Values(a), b_values = Values(b);
  std::vector<double> c(static_cast<size_t>(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t p = 0; p < k; ++p) {
      const double a_ip = a_values[static_cast<size_t>(i * k + p)];
      for (int64_t j = 0; j < n; ++j) {
        c[static_cast<size_t>(i * n + j)] += a_ip * b_values[static_cast<size_t>(p * n + j)];
      }
    }
  }
  return c;
}

}  // namespace muster::kernels
