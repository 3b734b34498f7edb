#include "kernels/ops/matmul_rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/device/cpu_threads.h"
#include "kernels/ops/matmul.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

// FLOP/s of products of the size that is measured, timed by hand: the median.
double RateByHand() {
  using Clock = std::chrono::steady_clock;
  const int64_t n = 1024;
  const Tensor a = RandomTensor(DType::kFloat32, {n, n}, "a");
  const Tensor b = RandomTensor(DType::kFloat32, {n, n}, "b");
  const Tensor c = MakeTensor(DType::kFloat32, {n, n});
  std::vector<double> seconds;
  for (int i = 0; i < 31; ++i) {
    const Clock::time_point begin = Clock::now();
    cpu::Matmul({.a = a.view(), .b = b.view(), .c = c.view(), .b_transposed = true});
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return 2.0 * n * n * n / seconds[15];
}

// Other work on the machine slows one of the two by chance, so they have some tries to agree. A
// wrong unit or count of FLOPs would be off by two or more each time.
TEST(MatmulRate, AgreesWithProductsTimedByHand) {
  SetCpuThreads(1);  // as many as are measured
  double ratio = 0;
  for (int attempt = 0; attempt < 10 && !(ratio > 0.7 && ratio < 1.4); ++attempt) {
    const absl::StatusOr<double> measured = MeasureMatmulRate(Device{}, DType::kFloat32, 1);
    ASSERT_TRUE(measured.ok()) << measured.status();
    ratio = *measured / RateByHand();
  }
  EXPECT_GT(ratio, 0.7);
  EXPECT_LT(ratio, 1.4);
}

TEST(MatmulRate, RefusesWhatCannotBeMeasured) {
  EXPECT_EQ(MeasureMatmulRate(Device{}, DType::kInt32, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MeasureMatmulRate(Device{}, DType::kFloat32, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace muster::kernels
