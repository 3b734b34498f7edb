#include "kernels/ops/gelu.h"

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"
#include "kernels/ops/cpu/row_count.h"
#include "kernels/ops/cpu/vector_math.h"

namespace muster::kernels::cpu {
namespace {

constexpr double kSqrtTwoOverPi = 0.79788456080286535588, kCubic = 0.044715;

// u(x) of y = x (1 + tanh u) / 2.
template <typename A>
A Inner(A x) {
  return static_cast<A>(kSqrtTwoOverPi) * x * (A{1} + static_cast<A>(kCubic) * x * x);
}

template <typename T>
void Forward(const GeluForwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t size = args.x.shape[1];
  const int64_t rows = RowsInUse("GeluForward", args.row_count, args.x.shape[0]);
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = args.x.as<T>() + r * size;
    T* out = args.out.as<T>() + r * size;
    const A half_weight = A{0.5} * (args.row_weight ? args.row_weight.as<A>()[r] : A{1});
#pragma GCC ivdep
    for (int64_t f = 0; f < size; ++f) {
      const A value = static_cast<A>(x[f]);
      out[f] = static_cast<T>(half_weight * value * (A{1} + TanhF(Inner(value))));
    }
  }
}

// Writes d_x (over x, if they alias) and returns the gradient of row_weight.
//   y' = (1 + tanh u) / 2 + x (1 - tanh^2 u) u' / 2,   u' = sqrt(2 / pi) (1 + 3 0.044715 x^2)
template <typename T>
Accumulator<T> BackwardRow(const T* d_out, const T* x, Accumulator<T> row_weight, T* d_x,
                           int64_t size) {
  using A = Accumulator<T>;
  return LaneSum<A>(size, [=](int64_t f) {
    const A value = static_cast<A>(x[f]), d = static_cast<A>(d_out[f]);
    const A tanh_u = TanhF(Inner(value));
    const A d_u =
        static_cast<A>(kSqrtTwoOverPi) * (A{1} + A{3} * static_cast<A>(kCubic) * value * value);
    const A slope = A{0.5} * (A{1} + tanh_u + value * (A{1} - tanh_u * tanh_u) * d_u);
    d_x[f] = static_cast<T>(d * row_weight * slope);
    return d * A{0.5} * value * (A{1} + tanh_u);
  });
}

template <typename T>
void Backward(const GeluBackwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t size = args.x.shape[1];
  const int64_t rows = RowsInUse("GeluBackward", args.row_count, args.x.shape[0]);
  for (int64_t r = 0; r < rows; ++r) {
    const A row_weight = args.row_weight ? args.row_weight.as<A>()[r] : A{1};
    const A d_row_weight = BackwardRow<T>(args.d_out.as<T>() + r * size, args.x.as<T>() + r * size,
                                          row_weight, args.d_x.as<T>() + r * size, size);
    if (args.row_weight) args.d_row_weight.as<A>()[r] = d_row_weight;
    if (!args.d_bias) continue;
    const T* d_x = args.d_x.as<T>() + r * size;
    A* d_bias = args.d_bias.as<A>();
#pragma GCC ivdep
    for (int64_t f = 0; f < size; ++f) d_bias[f] += static_cast<A>(d_x[f]);
  }
}

}  // namespace

void GeluForward(const GeluForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void GeluBackward(const GeluBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
