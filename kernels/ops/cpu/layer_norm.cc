#include "kernels/ops/layer_norm.h"

#include <cmath>

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void ForwardRow(const LayerNormForwardArgs& args, int64_t t) {
  using A = Accumulator<T>;
  const int64_t dim = args.x.shape[1];
  const T* x = args.x.as<T>() + t * dim;
  if (args.residual) {
    const T* residual = args.residual.as<T>() + t * dim;
    T* h = args.h.as<T>() + t * dim;
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      h[d] = static_cast<T>(static_cast<A>(x[d]) + static_cast<A>(residual[d]));
    }
    x = h;  // The norm is that of h as stored, which is what the backward reads.
  }
  const A mean = LaneSum<A>(dim, [x](int64_t d) { return static_cast<A>(x[d]); }) / A(dim);
  // Around the mean, not E[h^2] - mean^2: that would cancel when the mean is large.
  const A squares = LaneSum<A>(dim, [x, mean](int64_t d) {
    const A centred = static_cast<A>(x[d]) - mean;
    return centred * centred;
  });
  const A rstd = A{1} / std::sqrt(squares / static_cast<A>(dim) + static_cast<A>(args.epsilon));
  args.mean.as<A>()[t] = mean;
  args.rstd.as<A>()[t] = rstd;
  const T* weight = args.weight.as<T>();
  const T* bias = args.bias ? args.bias.as<T>() : nullptr;
  T* y = args.y.as<T>() + t * dim;
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) {
    const A scaled = (static_cast<A>(x[d]) - mean) * rstd * static_cast<A>(weight[d]);
    y[d] = static_cast<T>(bias != nullptr ? scaled + static_cast<A>(bias[d]) : scaled);
  }
}

template <typename T>
void Forward(const LayerNormForwardArgs& args) {
  for (int64_t t = 0; t < args.x.shape[0]; ++t) ForwardRow<T>(args, t);
}

// With g = d_y weight and n = (h - mean) rstd:
//   d_h = rstd (g - mean(g) - n mean(g n)) + d_residual.
template <typename T>
void InputRow(const LayerNormBackwardArgs& args, int64_t t) {
  using A = Accumulator<T>;
  const int64_t dim = args.h.shape[1];
  const T* d_y = args.d_y.as<T>() + t * dim;
  const T* h = args.h.as<T>() + t * dim;
  const T* weight = args.weight.as<T>();
  const A mean = args.mean.as<A>()[t], rstd = args.rstd.as<A>()[t];
  const auto g = [=](int64_t d) { return static_cast<A>(d_y[d]) * static_cast<A>(weight[d]); };
  const auto normed = [=](int64_t d) { return (static_cast<A>(h[d]) - mean) * rstd; };
  const A mean_g = LaneSum<A>(dim, g) / static_cast<A>(dim);
  const A mean_gn =
      LaneSum<A>(dim, [=](int64_t d) { return g(d) * normed(d); }) / static_cast<A>(dim);
  const T* d_residual = args.d_residual ? args.d_residual.as<T>() + t * dim : nullptr;
  T* d_h = args.d_h.as<T>() + t * dim;
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) {
    const A gradient = rstd * (g(d) - mean_g - normed(d) * mean_gn);
    d_h[d] =
        static_cast<T>(d_residual != nullptr ? gradient + static_cast<A>(d_residual[d]) : gradient);
  }
}

template <typename T>
void AddWeightsRow(const LayerNormBackwardArgs& args, int64_t t) {
  using A = Accumulator<T>;
  const int64_t dim = args.h.shape[1];
  const T* d_y = args.d_y.as<T>() + t * dim;
  const T* h = args.h.as<T>() + t * dim;
  const A mean = args.mean.as<A>()[t], rstd = args.rstd.as<A>()[t];
  if (args.d_weight) {
    A* d_weight = args.d_weight.as<A>();
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      d_weight[d] += static_cast<A>(d_y[d]) * (static_cast<A>(h[d]) - mean) * rstd;
    }
  }
  if (args.d_bias) {
    A* d_bias = args.d_bias.as<A>();
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) d_bias[d] += static_cast<A>(d_y[d]);
  }
}

template <typename T>
void Backward(const LayerNormBackwardArgs& args) {
  for (int64_t t = 0; t < args.h.shape[0]; ++t) {
    AddWeightsRow<T>(args, t);  // first: d_h may be written over d_y
    InputRow<T>(args, t);
  }
}

}  // namespace

void LayerNormForward(const LayerNormForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void LayerNormBackward(const LayerNormBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.h.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
