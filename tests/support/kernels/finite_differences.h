#pragma once
// Checks an analytic gradient against fourth-order central differences in fp64:
//   f'(x) ~ (8 (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12 h
// With h = 1e-3 and values of order 1 both the truncation and the rounding error are below 1e-9.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

// The numeric gradient of `loss` with respect to every element of x (fp64, any strides), row-major.
// `loss` must recompute from the memory of x; x is left as it was.
inline std::vector<double> NumericGradient(const std::function<double()>& loss, const TensorView& x,
                                           double step = 1e-3) {
  MUSTER_CHECK(x.dtype == DType::kFloat64) << "finite differences in " << x.ToString();
  std::vector<double> gradient(static_cast<size_t>(x.num_elements()));
  for (size_t i = 0; i < gradient.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    const double value = GetValue(x, index);
    const auto loss_at = [&](double offset) {
      SetValue(x, index, value + offset);
      return loss();
    };
    const double near = loss_at(step) - loss_at(-step);
    const double far = loss_at(2 * step) - loss_at(-2 * step);
    gradient[i] = (8 * near - far) / (12 * step);
    SetValue(x, index, value);
  }
  return gradient;
}

// Passes if each element of `analytic` (fp64, x's shape) differs from the numeric gradient by at
// most max_error times the largest element of the numeric gradient. An all-zero numeric gradient
// fails: such a check would prove nothing.
inline ::testing::AssertionResult GradientMatches(const std::function<double()>& loss,
                                                  const TensorView& x, const TensorView& analytic,
                                                  double max_error = 1e-7, double step = 1e-3) {
  const std::vector<double> numeric = NumericGradient(loss, x, step);
  const std::vector<double> values = Values(analytic);
  if (values.size() != numeric.size()) {
    return ::testing::AssertionFailure()
           << "gradient " << analytic.ToString() << " of " << x.ToString();
  }
  double largest = 0;
  for (double g : numeric) largest = std::max(largest, std::fabs(g));
  if (!(largest > 0)) return ::testing::AssertionFailure() << "the numeric gradient is all zero";
  for (size_t i = 0; i < numeric.size(); ++i) {
    if (!(std::fabs(values[i] - numeric[i]) <= max_error * largest)) {
      return ::testing::AssertionFailure()
             << "gradient of element " << i << " is " << values[i] << ", finite differences give "
             << numeric[i] << " (largest " << largest << ")";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace muster::kernels
