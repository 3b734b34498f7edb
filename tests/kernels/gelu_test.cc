#include "kernels/ops/gelu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/reduce.h"
#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

double TanhU(double x) { return std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)); }

struct Activation {
  explicit Activation(DType dtype, int64_t rows = 5, int64_t size = 37)
      : x(RandomTensor(dtype, {rows, size}, "x", 2.0)),
        row_weight(RandomTensor(AccumulatorDType(dtype), {rows}, "row_weight")),
        row_count(TensorOf(DType::kInt64, {1}, {static_cast<double>(rows)})),
        out(MakeTensor(dtype, {rows, size})),
        d_out(RandomTensor(dtype, {rows, size}, "d_out")),
        d_x(MakeTensor(dtype, {rows, size})),
        d_row_weight(MakeTensor(AccumulatorDType(dtype), {rows})) {}

  GeluForwardArgs ForwardArgs() const {
    return {.x = x.view(),
            .row_weight = row_weight.view(),
            .row_count = row_count.view(),
            .out = out.view()};
  }
  GeluBackwardArgs BackwardArgs() const {
    return {.d_out = d_out.view(),
            .x = x.view(),
            .row_weight = row_weight.view(),
            .row_count = row_count.view(),
            .d_x = d_x.view(),
            .d_row_weight = d_row_weight.view()};
  }

  Tensor x, row_weight, row_count, out, d_out, d_x, d_row_weight;
};

class Gelu : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, Gelu, StorageDTypes(), DTypeName);

TEST_P(Gelu, MatchesReference) {
  for (bool weighted : {false, true}) {
    Activation act(GetParam());
    GeluForwardArgs forward = act.ForwardArgs();
    GeluBackwardArgs backward = act.BackwardArgs();
    if (!weighted) forward.row_weight = backward.row_weight = backward.d_row_weight = {};
    cpu::GeluForward(forward);
    cpu::GeluBackward(backward);
    const std::vector<double> x = Values(act.x.view()), d_out = Values(act.d_out.view());
    std::vector<double> out(x.size()), d_x(x.size()), d_weight(5);
    for (size_t i = 0; i < x.size(); ++i) {
      const double w = weighted ? GetValue(act.row_weight.view(), static_cast<int64_t>(i / 37)) : 1;
      const double t = TanhU(x[i]);
      const double d_u = std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x[i] * x[i]);
      out[i] = 0.5 * x[i] * (1 + t) * w;
      d_x[i] = d_out[i] * w * (0.5 * (1 + t) + 0.5 * x[i] * (1 - t * t) * d_u);
      d_weight[i / 37] += d_out[i] * 0.5 * x[i] * (1 + t);
    }
    EXPECT_TRUE(IsClose(act.out.view(), out));
    EXPECT_TRUE(IsClose(act.d_x.view(), d_x));
    if (weighted) EXPECT_TRUE(IsClose(act.d_row_weight.view(), d_weight));
  }
}

TEST_P(Gelu, BiasGradientIsTheColumnSumOfTheInputGradient) {
  const Activation act(GetParam());
  const DType accumulator = AccumulatorDType(GetParam());
  const Tensor d_bias = RandomTensor(accumulator, {37}, "d_bias");
  const Tensor wanted = RandomTensor(accumulator, {37}, "d_bias");
  GeluBackwardArgs args = act.BackwardArgs();
  args.row_weight = args.row_count = args.d_row_weight = {};
  cpu::GeluBackward(args);
  const std::vector<double> d_x = Values(act.d_x.view());
  cpu::ColumnSum({.x = act.d_x.view(), .out = wanted.view()});
  args.d_bias = d_bias.view();
  args.d_x = args.x;  // over its input, as layers call it
  cpu::GeluBackward(args);
  EXPECT_EQ(Values(args.d_x), d_x);
  EXPECT_EQ(Values(d_bias.view()), Values(wanted.view()));
}

TEST_P(Gelu, TouchesOnlyRowsInUse) {
  Activation all(GetParam()), some(GetParam());
  SetValue(some.row_count.view(), 0, 3);
  FillRandom(some.out.view(), "before");
  FillRandom(some.d_x.view(), "before");
  const std::vector<double> before = Values(some.out.view());
  cpu::GeluForward(all.ForwardArgs());
  cpu::GeluBackward(all.BackwardArgs());
  cpu::GeluForward(some.ForwardArgs());
  cpu::GeluBackward(some.BackwardArgs());
  for (size_t i = 0; i < 5 * 37; ++i) {
    const auto at = static_cast<int64_t>(i);
    const bool used = i < 3 * 37;
    EXPECT_EQ(GetValue(some.out.view(), at), used ? GetValue(all.out.view(), at) : before[i]);
    EXPECT_EQ(GetValue(some.d_x.view(), at), used ? GetValue(all.d_x.view(), at) : before[i]);
  }
}

TEST_P(Gelu, GradientMayBeWrittenOverTheInput) {
  Activation apart(GetParam()), aliased(GetParam());
  cpu::GeluBackward(apart.BackwardArgs());
  GeluBackwardArgs args = aliased.BackwardArgs();
  args.d_x = args.x;
  cpu::GeluBackward(args);
  EXPECT_EQ(Values(args.x), Values(apart.d_x.view()));
  EXPECT_EQ(Values(args.d_row_weight), Values(apart.d_row_weight.view()));
}

TEST(GeluGradient, MatchesFiniteDifferences) {
  Activation act(DType::kFloat64, 3, 19);
  cpu::GeluBackward(act.BackwardArgs());
  const auto loss = [&] {
    cpu::GeluForward(act.ForwardArgs());
    return Dot(act.out.view(), act.d_out.view());
  };
  EXPECT_TRUE(GradientMatches(loss, act.x.view(), act.d_x.view()));
  EXPECT_TRUE(GradientMatches(loss, act.row_weight.view(), act.d_row_weight.view()));
}

}  // namespace
}  // namespace muster::kernels
