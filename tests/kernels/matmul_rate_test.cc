#include "kernels/ops/matmul_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "kernels/ops/matmul.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

// The best of ten products, timed by hand. A factor of four leaves room for a busy machine; a unit
// or a count of FLOPs that is wrong would be off by more.
TEST(MatmulRate, AgreesWithAProductTimedByHand) {
  using Clock = std::chrono::steady_clock;
  const int64_t n = 512;
  const Tensor a = RandomTensor(DType::kFloat32, {n, n}, "a");
  const Tensor b = RandomTensor(DType::kFloat32, {n, n}, "b");
  const Tensor c = MakeTensor(DType::kFloat32, {n, n});
  double best_seconds = 1e9;
  for (int i = 0; i < 10; ++i) {
    const Clock::time_point begin = Clock::now();
    cpu::Matmul({.a = a.view(), .b = b.view(), .c = c.view(), .b_transposed = true});
    best_seconds =
        std::min(best_seconds, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  const double by_hand = 2.0 * n * n * n / best_seconds;
  const absl::StatusOr<double> measured = MeasureMatmulRate(Device{}, DType::kFloat32, 1);
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_GT(*measured, by_hand / 4);
  EXPECT_LT(*measured, by_hand * 4);
}

TEST(MatmulRate, RefusesWhatCannotBeMeasured) {
  EXPECT_EQ(MeasureMatmulRate(Device{}, DType::kInt32, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MeasureMatmulRate(Device{}, DType::kFloat32, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muster::kernels
