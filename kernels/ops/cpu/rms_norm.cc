#include "kernels/ops/rms_norm.h"

#include <cmath>

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void ForwardRow(const T* x, const T* residual, const T* weight, T* h, T* y, Accumulator<T>* rstd,
                int64_t dim, Accumulator<T> epsilon) {
  using A = Accumulator<T>;
  if (residual != nullptr) {
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      h[d] = static_cast<T>(static_cast<A>(x[d]) + static_cast<A>(residual[d]));
    }
    x = h;  // The norm is that of h as stored, which is what the backward reads.
  }
  const A squares = LaneSum<A>(dim, [x](int64_t d) {
    const A value = x[d];
    return value * value;
  });
  const A r = A{1} / std::sqrt(squares / static_cast<A>(dim) + epsilon);
  *rstd = r;
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) {
    y[d] = static_cast<T>(static_cast<A>(x[d]) * r * static_cast<A>(weight[d]));
  }
}

template <typename T>
void Forward(const RmsNormForwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_tokens = args.x.shape[0], dim = args.x.shape[1];
  const bool has_residual = static_cast<bool>(args.residual);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t at = t * dim;
    ForwardRow<T>(args.x.as<T>() + at, has_residual ? args.residual.as<T>() + at : nullptr,
                  args.weight.as<T>(), has_residual ? args.h.as<T>() + at : nullptr,
                  args.y.as<T>() + at, args.rstd.as<A>() + t, dim, static_cast<A>(args.epsilon));
  }
}

// With g = d_y weight:  d_h = rstd (g - h rstd^2 mean(g h)) + d_residual.
template <typename T>
void InputRow(const T* d_y, const T* h, const T* weight, Accumulator<T> rstd, const T* d_residual,
              T* d_h, int64_t dim) {
  using A = Accumulator<T>;
  const A sum = LaneSum<A>(dim, [=](int64_t d) {
    return static_cast<A>(d_y[d]) * static_cast<A>(weight[d]) * static_cast<A>(h[d]);
  });
  const A projection = rstd * rstd * sum / static_cast<A>(dim);
  const auto gradient = [=](int64_t d) {
    const A g = static_cast<A>(d_y[d]) * static_cast<A>(weight[d]);
    return rstd * (g - static_cast<A>(h[d]) * projection);
  };
  if (d_residual != nullptr) {
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) {
      d_h[d] = static_cast<T>(gradient(d) + static_cast<A>(d_residual[d]));
    }
  } else {
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) d_h[d] = static_cast<T>(gradient(d));
  }
}

template <typename T>
void AddWeightRow(const T* d_y, const T* h, Accumulator<T> rstd, Accumulator<T>* d_weight,
                  int64_t dim) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) {
    d_weight[d] += static_cast<A>(d_y[d]) * static_cast<A>(h[d]) * rstd;
  }
}

template <typename T>
void Backward(const RmsNormBackwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_tokens = args.h.shape[0], dim = args.h.shape[1];
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t at = t * dim;
    // The weight first: d_h may be written over d_y.
    if (args.d_weight) {
      AddWeightRow<T>(args.d_y.as<T>() + at, args.h.as<T>() + at, args.rstd.as<A>()[t],
                      args.d_weight.as<A>(), dim);
    }
    InputRow<T>(args.d_y.as<T>() + at, args.h.as<T>() + at, args.weight.as<T>(),
                args.rstd.as<A>()[t], args.d_residual ? args.d_residual.as<T>() + at : nullptr,
                args.d_h.as<T>() + at, dim);
  }
}

}  // namespace

void RmsNormForward(const RmsNormForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void RmsNormBackward(const RmsNormBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.h.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
