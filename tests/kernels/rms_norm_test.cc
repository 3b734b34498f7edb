#include "kernels/ops/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr float kEpsilon = 1e-3f;

// All tensors of one norm; T x D with D no multiple of a vector's width.
struct Norm {
  explicit Norm(DType dtype, int64_t tokens = 5, int64_t dim = 37)
      : x(RandomTensor(dtype, {tokens, dim}, "x")),
        residual(RandomTensor(dtype, {tokens, dim}, "residual")),
        weight(RandomTensor(dtype, {dim}, "weight")),
        h(MakeTensor(dtype, {tokens, dim})),
        y(MakeTensor(dtype, {tokens, dim})),
        rstd(MakeTensor(AccumulatorDType(dtype), {tokens})),
        d_y(RandomTensor(dtype, {tokens, dim}, "d_y")),
        d_residual(RandomTensor(dtype, {tokens, dim}, "d_residual")),
        d_h(MakeTensor(dtype, {tokens, dim})),
        d_weight(MakeTensor(AccumulatorDType(dtype), {dim})) {}

  void Forward() {
    cpu::RmsNormForward({.x = x.view(),
                         .residual = residual.view(),
                         .weight = weight.view(),
                         .h = h.view(),
                         .y = y.view(),
                         .rstd = rstd.view(),
                         .epsilon = kEpsilon});
  }
  void Backward(const TensorView& out) {
    cpu::RmsNormBackward({.d_y = d_y.view(),
                          .h = h.view(),
                          .weight = weight.view(),
                          .rstd = rstd.view(),
                          .d_residual = d_residual.view(),
                          .d_h = out,
                          .d_weight = d_weight.view()});
  }

  Tensor x, residual, weight, h, y, rstd, d_y, d_residual, d_h, d_weight;
};

double ReferenceRstd(const std::vector<double>& h, size_t token, size_t dim) {
  double squares = 0;
  for (size_t d = 0; d < dim; ++d) squares += h[token * dim + d] * h[token * dim + d];
  return 1 / std::sqrt(squares / static_cast<double>(dim) + double{kEpsilon});
}

class RmsNorm : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, RmsNorm, StorageDTypes(), DTypeName);

TEST_P(RmsNorm, ForwardMatchesReference) {
  Norm norm(GetParam());
  norm.Forward();
  std::vector<double> sum = Values(norm.x.view());
  const std::vector<double> residual = Values(norm.residual.view());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += residual[i];
  EXPECT_TRUE(IsClose(norm.h.view(), sum));

  const std::vector<double> h = Values(norm.h.view()), weight = Values(norm.weight.view());
  std::vector<double> y(h.size()), rstd(5);
  for (size_t t = 0; t < 5; ++t) {
    rstd[t] = ReferenceRstd(h, t, 37);
    for (size_t d = 0; d < 37; ++d) y[t * 37 + d] = h[t * 37 + d] * rstd[t] * weight[d];
  }
  EXPECT_TRUE(IsClose(norm.y.view(), y));
  EXPECT_TRUE(IsClose(norm.rstd.view(), rstd));
}

TEST_P(RmsNorm, WithoutResidualNormsX) {
  Norm norm(GetParam());
  FillRandom(norm.residual.view(), "zero", 0.0);
  norm.Forward();
  const std::vector<double> y = Values(norm.y.view());
  FillRandom(norm.y.view(), "other");
  cpu::RmsNormForward({.x = norm.x.view(),
                       .weight = norm.weight.view(),
                       .y = norm.y.view(),
                       .rstd = norm.rstd.view(),
                       .epsilon = kEpsilon});
  EXPECT_EQ(Values(norm.y.view()), y);
}

TEST_P(RmsNorm, BackwardMatchesReference) {
  Norm norm(GetParam());
  norm.Forward();
  norm.Backward(norm.d_h.view());
  const std::vector<double> h = Values(norm.h.view()), weight = Values(norm.weight.view());
  const std::vector<double> d_y = Values(norm.d_y.view());
  std::vector<double> d_h = Values(norm.d_residual.view()), d_weight(37);
  for (size_t t = 0; t < 5; ++t) {
    const double rstd = ReferenceRstd(h, t, 37);
    double dot = 0;
    for (size_t d = 0; d < 37; ++d) dot += h[t * 37 + d] * d_y[t * 37 + d] * weight[d];
    for (size_t d = 0; d < 37; ++d) {
      const size_t i = t * 37 + d;
      d_h[i] += rstd * d_y[i] * weight[d] - rstd * rstd * rstd * h[i] * dot / 37;
      d_weight[d] += d_y[i] * h[i] * rstd;
    }
  }
  EXPECT_TRUE(IsClose(norm.d_h.view(), d_h));
  EXPECT_TRUE(IsClose(norm.d_weight.view(), d_weight));
}

TEST_P(RmsNorm, WeightGradientAccumulates) {
  Norm norm(GetParam());
  norm.Forward();
  norm.Backward(norm.d_h.view());
  std::vector<double> twice = Values(norm.d_weight.view());
  for (double& value : twice) value *= 2;
  norm.Backward(norm.d_h.view());
  EXPECT_TRUE(IsClose(norm.d_weight.view(), twice));
}

TEST_P(RmsNorm, InputGradientNeedsNoWeightGradient) {
  Norm norm(GetParam());
  norm.Forward();
  norm.Backward(norm.d_h.view());
  const std::vector<double> d_h = Values(norm.d_h.view());
  FillRandom(norm.d_h.view(), "other");
  cpu::RmsNormBackward({.d_y = norm.d_y.view(),
                        .h = norm.h.view(),
                        .weight = norm.weight.view(),
                        .rstd = norm.rstd.view(),
                        .d_residual = norm.d_residual.view(),
                        .d_h = norm.d_h.view()});
  EXPECT_EQ(Values(norm.d_h.view()), d_h);
}

TEST_P(RmsNorm, OutputsMayAliasInputs) {
  Norm norm(GetParam());
  norm.Forward();
  norm.Backward(norm.d_h.view());
  const std::vector<double> h = Values(norm.h.view()), y = Values(norm.y.view());
  const std::vector<double> d_h = Values(norm.d_h.view());

  Norm onto_residual(GetParam());
  onto_residual.Backward(onto_residual.d_h.view());  // No forward: h, rstd are zero.
  EXPECT_EQ(Values(onto_residual.d_h.view()), Values(onto_residual.d_residual.view()));

  for (Tensor Norm::*target : {&Norm::x, &Norm::residual}) {
    Norm aliased(GetParam());
    const TensorView out = (aliased.*target).view();
    cpu::RmsNormForward({.x = aliased.x.view(),
                         .residual = aliased.residual.view(),
                         .weight = aliased.weight.view(),
                         .h = out,
                         .y = aliased.y.view(),
                         .rstd = aliased.rstd.view(),
                         .epsilon = kEpsilon});
    EXPECT_EQ(Values(out), h);
    EXPECT_EQ(Values(aliased.y.view()), y);
  }
  for (Tensor Norm::*target : {&Norm::d_residual, &Norm::d_y}) {
    Norm aliased(GetParam());
    aliased.Forward();
    aliased.Backward((aliased.*target).view());
    EXPECT_EQ(Values((aliased.*target).view()), d_h);
    EXPECT_EQ(Values(aliased.d_weight.view()), Values(norm.d_weight.view()));
  }
}

TEST(RmsNormGradient, MatchesFiniteDifferences) {
  Norm norm(DType::kFloat64, 3, 19);
  norm.Forward();
  norm.Backward(norm.d_h.view());
  // h also goes on along the residual path, where d_residual is its gradient.
  const auto loss = [&] {
    norm.Forward();
    return Dot(norm.y.view(), norm.d_y.view()) + Dot(norm.h.view(), norm.d_residual.view());
  };
  EXPECT_TRUE(GradientMatches(loss, norm.x.view(), norm.d_h.view()));
  EXPECT_TRUE(GradientMatches(loss, norm.residual.view(), norm.d_h.view()));
  EXPECT_TRUE(GradientMatches(loss, norm.weight.view(), norm.d_weight.view()));
}

TEST(RmsNormDeathTest, NamesTheArgumentOfWrongShape) {
  Norm norm(DType::kFloat32);
  const Tensor narrow = MakeTensor(DType::kFloat32, {36});
  EXPECT_DEATH(cpu::RmsNormForward({.x = norm.x.view(),
                                    .weight = narrow.view(),
                                    .y = norm.y.view(),
                                    .rstd = norm.rstd.view()}),
               "RmsNormForward: argument weight wants fp32\\[37\\], found fp32\\[36\\]");
}

}  // namespace
}  // namespace muster::kernels
