#include "kernels/ops/balance.h"

#include <gtest/gtest.h>

#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

TEST(AddCounts, AddsToTheTotal) {
  const Tensor counts = TensorOf(DType::kInt64, {2, 2}, {1, 2, 3, int64_t{1} << 40});
  const Tensor total = TensorOf(DType::kInt64, {2, 2}, {10, 0, -3, 1});
  cpu::AddCounts({.counts = counts.view(), .total = total.view()});
  EXPECT_EQ(Values(total.view()), (std::vector<double>{11, 2, 0, 1.0 + (int64_t{1} << 40)}));
}

TEST(UpdateBalance, LoadsSumToTheChoicesPerToken) {
  const Tensor counts = TensorOf(DType::kInt64, {2, 4}, {4, 0, 3, 1, 0, 0, 0, 0});
  for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
    const Tensor load = MakeTensor(dtype, {2, 4});
    cpu::UpdateBalance({.counts = counts.view(), .load = load.view(), .top_k = 2});
    // The second layer has no tokens: uniform.
    EXPECT_EQ(Values(load.view()), (std::vector<double>{1, 0, 0.75, 0.25, 0.5, 0.5, 0.5, 0.5}));
  }
}

TEST(UpdateBalance, BiasRisesWhereTokensAreMissing) {
  const Tensor counts = TensorOf(DType::kInt64, {2, 3}, {5, 1, 3, 2, 2, 2});
  const Tensor bias = TensorOf(DType::kFloat64, {2, 3}, {0.5, 0.5, 0.5, 1, 2, 3});
  cpu::UpdateBalance({.counts = counts.view(), .bias = bias.view(), .top_k = 1, .rate = 0.125});
  EXPECT_EQ(Values(bias.view()), (std::vector<double>{0.375, 0.625, 0.5, 1, 2, 3}));
}

}  // namespace
}  // namespace muster::kernels
