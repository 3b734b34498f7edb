#pragma once
// What the operators' tests share: their dtypes as test parameters, and a scalar loss.
#include <gtest/gtest.h>

#include <string>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

// Parameters of a suite that runs for every storage dtype, or for every accumulator dtype.
inline auto StorageDTypes() {
  return ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64);
}
inline auto AccumulatorDTypes() { return ::testing::Values(DType::kFloat32, DType::kFloat64); }
inline std::string DTypeName(const ::testing::TestParamInfo<DType>& info) {
  return Name(info.param);
}

// sum_i a_i b_i: with random b, a loss whose gradient with respect to a is b.
inline double Dot(const TensorView& a, const TensorView& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.num_elements(); ++i) sum += GetValue(a, i) * GetValue(b, i);
  return sum;
}

}  // namespace muster::kernels
