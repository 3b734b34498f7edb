#include "kernels/ops/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Distance from the exact value in units of the last place of its fp32 rounding.
double UlpError(float value, double exact) {
  const float rounded = static_cast<float>(exact);
  const float next = std::nextafter(std::fabs(rounded), kInfinity);
  return std::fabs(value - exact) / (static_cast<double>(next) - std::fabs(rounded));
}

TEST(VectorMath, ExpIsWithinTwoUlp) {
  double worst = 0;
  for (double x = -87.3; x < 88.7; x += 1e-3 * 0.7071) {
    const float x_rounded = static_cast<float>(x);
    worst = std::max(worst, UlpError(cpu::ExpF(x_rounded), std::exp(double{x_rounded})));
  }
  EXPECT_LE(worst, 2.0);
}

TEST(VectorMath, ExpReachesSubnormalsZeroAndInfinity) {
  for (float x = -110.0f; x < -87.0f; x += 0.01f) {
    EXPECT_NEAR(cpu::ExpF(x), std::exp(double{x}), std::ldexp(1.5, -149) + 2e-45) << x;
  }
  EXPECT_EQ(cpu::ExpF(-kInfinity), 0.0f);
  EXPECT_EQ(cpu::ExpF(-1e30f), 0.0f);
  EXPECT_EQ(cpu::ExpF(89.0f), kInfinity);
  EXPECT_EQ(cpu::ExpF(kInfinity), kInfinity);
  EXPECT_EQ(cpu::ExpF(0.0f), 1.0f);
  EXPECT_TRUE(std::isnan(cpu::ExpF(std::nanf(""))));
}

TEST(VectorMath, TanhIsWithinThreeUlpAndOdd) {
  double worst = 0;
  for (double x = -12; x < 12; x += 1.3e-4) {
    const float x_rounded = static_cast<float>(x);
    worst = std::max(worst, UlpError(cpu::TanhF(x_rounded), std::tanh(double{x_rounded})));
    EXPECT_EQ(cpu::TanhF(x_rounded), -cpu::TanhF(-x_rounded));
  }
  for (float x = 1e-30f; x < 1; x *= 1.7f) {
    worst = std::max(worst, UlpError(cpu::TanhF(x), std::tanh(double{x})));
  }
  EXPECT_LE(worst, 3.0);
  EXPECT_EQ(cpu::TanhF(kInfinity), 1.0f);
  EXPECT_EQ(cpu::TanhF(-kInfinity), -1.0f);
  EXPECT_TRUE(std::isnan(cpu::TanhF(std::nanf(""))));
}

TEST(VectorMath, SigmoidHasItsLimits) {
  for (float x = -20; x < 20; x += 0.01f) {
    EXPECT_LE(UlpError(cpu::SigmoidF(x), 1 / (1 + std::exp(-double{x}))), 4.0) << x;
  }
  EXPECT_EQ(cpu::SigmoidF(-kInfinity), 0.0f);
  EXPECT_EQ(cpu::SigmoidF(kInfinity), 1.0f);
}

TEST(FiniteDifferences, AcceptTheGradientAndRejectAnother) {
  const Tensor x = RandomTensor(DType::kFloat64, {7}, "x");
  const auto loss = [&] {
    double sum = 0;
    for (double v : Values(x.view())) sum += std::sin(v) * v;
    return sum;
  };
  std::vector<double> gradient;
  for (double v : Values(x.view())) gradient.push_back(std::cos(v) * v + std::sin(v));
  EXPECT_TRUE(GradientMatches(loss, x.view(), TensorOf(DType::kFloat64, {7}, gradient).view()));
  gradient[3] += 1e-5;
  EXPECT_FALSE(GradientMatches(loss, x.view(), TensorOf(DType::kFloat64, {7}, gradient).view()));
}

TEST(Tolerance, RejectsNanInfinityAndLargeErrors) {
  const Tensor x = TensorOf(DType::kFloat32, {2}, {1.0, 2.0});
  EXPECT_TRUE(IsClose(x.view(), {1.00001, 2.0}));
  EXPECT_FALSE(IsClose(x.view(), {1.001, 2.0}));
  EXPECT_FALSE(IsClose(x.view(), {1.0}));
  EXPECT_FALSE(IsClose(x.view(), {-kInfinity, 2.0}));
  SetValue(x.view(), 0, std::nan(""));
  EXPECT_FALSE(IsClose(x.view(), {1.0, 2.0}));
}

}  // namespace
}  // namespace muster::kernels
