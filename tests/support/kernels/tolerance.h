#pragma once
// The one table of how far an operator's result may be from an fp64 reference, by storage dtype,
// and the comparison that uses it. An element x passes against its reference r if
//   |x - r| <= relative |r| + absolute max|reference|
// so a sum that cancels is judged by the size of its terms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {

struct Tolerance {
  double relative = 0, absolute = 0;
};

inline Tolerance ToleranceOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return {1e-11, 1e-12};
    case DType::kFloat32:
      return {2e-5, 4e-6};
    case DType::kBFloat16:
      return {1.0 / 128, 1.0 / 256};  // 2 ulp, and roundings on the way
    default:
      return {0, 0};  // integers are exact
  }
}

// Checks every element of `actual` against `reference` (row-major). Infinities must be equal; a
// NaN never passes.
inline ::testing::AssertionResult IsClose(const TensorView& actual,
                                          const std::vector<double>& reference,
                                          Tolerance tolerance) {
  const std::vector<double> values = Values(actual);
  if (values.size() != reference.size()) {
    return ::testing::AssertionFailure()
           << actual.ToString() << " against " << reference.size() << " reference values";
  }
  double largest = 0;
  for (double r : reference) {
    if (std::isfinite(r)) largest = std::max(largest, std::fabs(r));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const double r = reference[i];
    const bool close = std::isfinite(r)
                           ? std::fabs(values[i] - r) <=
                                 tolerance.relative * std::fabs(r) + tolerance.absolute * largest
                           : values[i] == r;
    if (!close) {
      return ::testing::AssertionFailure()
             << actual.ToString() << ": element " << i << " is " << values[i] << ", wanted " << r
             << " (off by " << std::fabs(values[i] - r) << ", largest reference " << largest << ")";
    }
  }
  return ::testing::AssertionSuccess();
}

// The same with the tolerance of actual's dtype.
inline ::testing::AssertionResult IsClose(const TensorView& actual,
                                          const std::vector<double>& reference) {
  return IsClose(actual, reference, ToleranceOf(actual.dtype));
}

}  // namespace muster::kernels
