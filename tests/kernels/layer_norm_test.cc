#include "kernels/ops/layer_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr float kEpsilon = 1e-3f;

struct Norm {
  explicit Norm(DType dtype, int64_t tokens = 5, int64_t dim = 37)
      : x(RandomTensor(dtype, {tokens, dim}, "x")),
        residual(RandomTensor(dtype, {tokens, dim}, "residual")),
        weight(RandomTensor(dtype, {dim}, "weight")),
        bias(RandomTensor(dtype, {dim}, "bias")),
        h(MakeTensor(dtype, {tokens, dim})),
        y(MakeTensor(dtype, {tokens, dim})),
        mean(MakeTensor(AccumulatorDType(dtype), {tokens})),
        rstd(MakeTensor(AccumulatorDType(dtype), {tokens})),
        d_y(RandomTensor(dtype, {tokens, dim}, "d_y")),
        d_residual(RandomTensor(dtype, {tokens, dim}, "d_residual")),
        d_h(MakeTensor(dtype, {tokens, dim})),
        d_weight(MakeTensor(AccumulatorDType(dtype), {dim})),
        d_bias(MakeTensor(AccumulatorDType(dtype), {dim})) {}

  LayerNormForwardArgs ForwardArgs() const {
    return {.x = x.view(),
            .residual = residual.view(),
            .weight = weight.view(),
            .bias = bias.view(),
            .h = h.view(),
            .y = y.view(),
            .mean = mean.view(),
            .rstd = rstd.view(),
            .epsilon = kEpsilon};
  }
  void Backward(const TensorView& out) {
    cpu::LayerNormBackward({.d_y = d_y.view(),
                            .h = h.view(),
                            .weight = weight.view(),
                            .mean = mean.view(),
                            .rstd = rstd.view(),
                            .d_residual = d_residual.view(),
                            .d_h = out,
                            .d_weight = d_weight.view(),
                            .d_bias = d_bias.view()});
  }

  Tensor x, residual, weight, bias, h, y, mean, rstd, d_y, d_residual, d_h, d_weight, d_bias;
};

// mean and 1 / sqrt(variance + epsilon) of a row.
std::pair<double, double> Moments(const std::vector<double>& h, size_t token, size_t dim) {
  double mean = 0, variance = 0;
  for (size_t d = 0; d < dim; ++d) mean += h[token * dim + d] / static_cast<double>(dim);
  for (size_t d = 0; d < dim; ++d) {
    variance += std::pow(h[token * dim + d] - mean, 2) / static_cast<double>(dim);
  }
  return {mean, 1 / std::sqrt(variance + double{kEpsilon})};
}

class LayerNorm : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, LayerNorm, StorageDTypes(), DTypeName);

TEST_P(LayerNorm, ForwardMatchesReference) {
  Norm norm(GetParam());
  cpu::LayerNormForward(norm.ForwardArgs());
  std::vector<double> sum = Values(norm.x.view());
  const std::vector<double> residual = Values(norm.residual.view());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += residual[i];
  EXPECT_TRUE(IsClose(norm.h.view(), sum));

  const std::vector<double> h = Values(norm.h.view()), weight = Values(norm.weight.view());
  const std::vector<double> bias = Values(norm.bias.view());
  std::vector<double> y(h.size()), means(5), rstds(5);
  for (size_t t = 0; t < 5; ++t) {
    std::tie(means[t], rstds[t]) = Moments(h, t, 37);
    for (size_t d = 0; d < 37; ++d) {
      y[t * 37 + d] = (h[t * 37 + d] - means[t]) * rstds[t] * weight[d] + bias[d];
    }
  }
  EXPECT_TRUE(IsClose(norm.y.view(), y));
  EXPECT_TRUE(IsClose(norm.rstd.view(), rstds));
  EXPECT_TRUE(IsClose(norm.mean.view(), means));
}

TEST_P(LayerNorm, WithoutResidualAndBiasNormsX) {
  Norm norm(GetParam());
  FillRandom(norm.residual.view(), "zero", 0.0);
  FillRandom(norm.bias.view(), "zero", 0.0);
  cpu::LayerNormForward(norm.ForwardArgs());
  const std::vector<double> y = Values(norm.y.view());
  FillRandom(norm.y.view(), "other");
  LayerNormForwardArgs args = norm.ForwardArgs();
  args.residual = args.bias = args.h = TensorView();
  cpu::LayerNormForward(args);
  EXPECT_EQ(Values(norm.y.view()), y);
}

TEST_P(LayerNorm, BackwardMatchesReference) {
  Norm norm(GetParam());
  cpu::LayerNormForward(norm.ForwardArgs());
  norm.Backward(norm.d_h.view());
  const std::vector<double> h = Values(norm.h.view()), weight = Values(norm.weight.view());
  const std::vector<double> d_y = Values(norm.d_y.view());
  std::vector<double> d_h = Values(norm.d_residual.view()), d_weight(37), d_bias(37);
  for (size_t t = 0; t < 5; ++t) {
    const auto [mean, rstd] = Moments(h, t, 37);
    double mean_g = 0, mean_gn = 0;
    for (size_t d = 0; d < 37; ++d) {
      const size_t i = t * 37 + d;
      mean_g += d_y[i] * weight[d] / 37;
      mean_gn += d_y[i] * weight[d] * (h[i] - mean) * rstd / 37;
    }
    for (size_t d = 0; d < 37; ++d) {
      const size_t i = t * 37 + d;
      const double normed = (h[i] - mean) * rstd;
      d_h[i] += rstd * (d_y[i] * weight[d] - mean_g - normed * mean_gn);
      d_weight[d] += d_y[i] * normed;
      d_bias[d] += d_y[i];
    }
  }
  EXPECT_TRUE(IsClose(norm.d_h.view(), d_h));
  EXPECT_TRUE(IsClose(norm.d_weight.view(), d_weight));
  EXPECT_TRUE(IsClose(norm.d_bias.view(), d_bias));
}

TEST_P(LayerNorm, OutputsMayAliasInputs) {
  Norm norm(GetParam());
  cpu::LayerNormForward(norm.ForwardArgs());
  norm.Backward(norm.d_h.view());
  const std::vector<double> h = Values(norm.h.view()), y = Values(norm.y.view());
  const std::vector<double> d_h = Values(norm.d_h.view());
  for (Tensor Norm::*target : {&Norm::x, &Norm::residual}) {
    Norm aliased(GetParam());
    LayerNormForwardArgs args = aliased.ForwardArgs();
    args.h = (aliased.*target).view();
    cpu::LayerNormForward(args);
    EXPECT_EQ(Values(args.h), h);
    EXPECT_EQ(Values(aliased.y.view()), y);
  }
  for (Tensor Norm::*target : {&Norm::d_residual, &Norm::d_y}) {
    Norm aliased(GetParam());
    cpu::LayerNormForward(aliased.ForwardArgs());
    aliased.Backward((aliased.*target).view());
    EXPECT_EQ(Values((aliased.*target).view()), d_h);
    EXPECT_EQ(Values(aliased.d_weight.view()), Values(norm.d_weight.view()));
    EXPECT_EQ(Values(aliased.d_bias.view()), Values(norm.d_bias.view()));
  }
}

TEST(LayerNormGradient, MatchesFiniteDifferences) {
  Norm norm(DType::kFloat64, 3, 19);
  cpu::LayerNormForward(norm.ForwardArgs());
  norm.Backward(norm.d_h.view());
  const auto loss = [&] {
    cpu::LayerNormForward(norm.ForwardArgs());
    return Dot(norm.y.view(), norm.d_y.view()) + Dot(norm.h.view(), norm.d_residual.view());
  };
  EXPECT_TRUE(GradientMatches(loss, norm.x.view(), norm.d_h.view()));
  EXPECT_TRUE(GradientMatches(loss, norm.weight.view(), norm.d_weight.view()));
  EXPECT_TRUE(GradientMatches(loss, norm.bias.view(), norm.d_bias.view()));
}

TEST(LayerNormForward, VarianceSurvivesALargeMean) {
  Norm norm(DType::kFloat32);
  for (int64_t i = 0; i < norm.x.view().num_elements(); ++i) {
    SetValue(norm.x.view(), i, 4096 + GetValue(norm.x.view(), i));
  }
  cpu::LayerNormForward(norm.ForwardArgs());
  const std::vector<double> h = Values(norm.h.view());
  std::vector<double> rstd(5);
  for (size_t t = 0; t < 5; ++t) rstd[t] = Moments(h, t, 37).second;
  EXPECT_TRUE(IsClose(norm.rstd.view(), rstd));
}

}  // namespace
}  // namespace muster::kernels
