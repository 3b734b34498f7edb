#include "kernels/ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

double Silu(double z) { return z / (1 + std::exp(-z)); }

struct Activation {
  explicit Activation(DType dtype, int64_t rows = 5, int64_t size = 37)
      : gate_up(RandomTensor(dtype, {rows, 2 * size}, "gate_up", 3.0)),
        row_weight(RandomTensor(AccumulatorDType(dtype), {rows}, "row_weight")),
        row_count(TensorOf(DType::kInt64, {1}, {static_cast<double>(rows)})),
        out(MakeTensor(dtype, {rows, size})),
        d_out(RandomTensor(dtype, {rows, size}, "d_out")),
        d_gate_up(MakeTensor(dtype, {rows, 2 * size})),
        d_row_weight(MakeTensor(AccumulatorDType(dtype), {rows})) {}

  SwiGluForwardArgs ForwardArgs() const {
    return {.gate_up = gate_up.view(),
            .row_weight = row_weight.view(),
            .row_count = row_count.view(),
            .out = out.view()};
  }
  SwiGluBackwardArgs BackwardArgs() const {
    return {.d_out = d_out.view(),
            .gate_up = gate_up.view(),
            .row_weight = row_weight.view(),
            .row_count = row_count.view(),
            .d_gate_up = d_gate_up.view(),
            .d_row_weight = d_row_weight.view()};
  }

  Tensor gate_up, row_weight, row_count, out, d_out, d_gate_up, d_row_weight;
};

class SwiGlu : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, SwiGlu, StorageDTypes(), DTypeName);

TEST_P(SwiGlu, MatchesReference) {
  for (bool weighted : {false, true}) {
    Activation act(GetParam());
    SwiGluForwardArgs forward = act.ForwardArgs();
    SwiGluBackwardArgs backward = act.BackwardArgs();
    if (!weighted) forward.row_weight = backward.row_weight = backward.d_row_weight = {};
    cpu::SwiGluForward(forward);
    cpu::SwiGluBackward(backward);
    const std::vector<double> x = Values(act.gate_up.view()), d_out = Values(act.d_out.view());
    std::vector<double> out(5 * 37), d_x(5 * 74), d_weight(5);
    for (size_t r = 0; r < 5; ++r) {
      const double w = weighted ? GetValue(act.row_weight.view(), static_cast<int64_t>(r)) : 1;
      for (size_t f = 0; f < 37; ++f) {
        const size_t g = r * 74 + f, u = g + 37, o = r * 37 + f;
        const double s = 1 / (1 + std::exp(-x[g]));
        out[o] = Silu(x[g]) * x[u] * w;
        d_x[g] = d_out[o] * w * x[u] * (s + x[g] * s * (1 - s));
        d_x[u] = d_out[o] * w * Silu(x[g]);
        if (weighted) d_weight[r] += d_out[o] * Silu(x[g]) * x[u];
      }
    }
    EXPECT_TRUE(IsClose(act.out.view(), out));
    EXPECT_TRUE(IsClose(act.d_gate_up.view(), d_x));
    if (weighted) EXPECT_TRUE(IsClose(act.d_row_weight.view(), d_weight));
  }
}

TEST_P(SwiGlu, TouchesOnlyRowsInUse) {
  Activation all(GetParam()), some(GetParam());
  SetValue(some.row_count.view(), 0, 3);
  for (const Tensor* tensor : {&some.out, &some.d_gate_up, &some.d_row_weight}) {
    FillRandom(tensor->view(), "before");
  }
  const std::vector<double> out = Values(some.out.view());
  const std::vector<double> d_x = Values(some.d_gate_up.view());
  cpu::SwiGluForward(all.ForwardArgs());
  cpu::SwiGluBackward(all.BackwardArgs());
  cpu::SwiGluForward(some.ForwardArgs());
  cpu::SwiGluBackward(some.BackwardArgs());
  for (size_t i = 0; i < 5 * 37; ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_EQ(GetValue(some.out.view(), at), i < 3 * 37 ? GetValue(all.out.view(), at) : out[i]);
  }
  for (size_t i = 0; i < 5 * 74; ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_EQ(GetValue(some.d_gate_up.view(), at),
              i < 3 * 74 ? GetValue(all.d_gate_up.view(), at) : d_x[i]);
  }
}

TEST_P(SwiGlu, GradientMayBeWrittenOverTheInput) {
  Activation apart(GetParam()), aliased(GetParam());
  cpu::SwiGluBackward(apart.BackwardArgs());
  SwiGluBackwardArgs args = aliased.BackwardArgs();
  args.d_gate_up = args.gate_up;
  cpu::SwiGluBackward(args);
  EXPECT_EQ(Values(args.gate_up), Values(apart.d_gate_up.view()));
  EXPECT_EQ(Values(args.d_row_weight), Values(apart.d_row_weight.view()));
}

TEST_P(SwiGlu, LargeGatesDoNotOverflow) {
  const Tensor gate_up = TensorOf(GetParam(), {2, 2}, {1000, 2, -1000, 2});
  const Tensor out = MakeTensor(GetParam(), {2, 1}), d_out = TensorOf(GetParam(), {2, 1}, {1, 1});
  const Tensor d_gate_up = MakeTensor(GetParam(), {2, 2});
  cpu::SwiGluForward({.gate_up = gate_up.view(), .out = out.view()});
  EXPECT_TRUE(IsClose(out.view(), {2000, 0}));
  cpu::SwiGluBackward(
      {.d_out = d_out.view(), .gate_up = gate_up.view(), .d_gate_up = d_gate_up.view()});
  EXPECT_TRUE(IsClose(d_gate_up.view(), {2, 1000, 0, 0}));
}

TEST(SwiGluGradient, MatchesFiniteDifferences) {
  Activation act(DType::kFloat64, 3, 19);
  cpu::SwiGluBackward(act.BackwardArgs());
  const auto loss = [&] {
    cpu::SwiGluForward(act.ForwardArgs());
    return Dot(act.out.view(), act.d_out.view());
  };
  EXPECT_TRUE(GradientMatches(loss, act.gate_up.view(), act.d_gate_up.view()));
  EXPECT_TRUE(GradientMatches(loss, act.row_weight.view(), act.d_row_weight.view()));
}

TEST(SwiGluDeathTest, RefusesMoreRowsThanPlanned) {
  Activation act(DType::kFloat32);
  SetValue(act.row_count.view(), 0, 6);
  EXPECT_DEATH(cpu::SwiGluForward(act.ForwardArgs()), "row_count is 6, the planned bound is 5");
}

}  // namespace
}  // namespace muster::kernels
