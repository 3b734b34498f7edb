#include "kernels/ops/swiglu.h"

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"
#include "kernels/ops/cpu/row_count.h"
#include "kernels/ops/cpu/vector_math.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void Forward(const SwiGluForwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t size = args.out.shape[1];
  const int64_t rows = RowsInUse("SwiGluForward", args.row_count, args.out.shape[0]);
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = args.gate_up.as<T>() + r * 2 * size;
    const T* up = gate + size;
    T* out = args.out.as<T>() + r * size;
    const A row_weight = args.row_weight ? args.row_weight.as<A>()[r] : A{1};
#pragma GCC ivdep
    for (int64_t f = 0; f < size; ++f) {
      const A z = static_cast<A>(gate[f]);
      out[f] = static_cast<T>(z * SigmoidF(z) * static_cast<A>(up[f]) * row_weight);
    }
  }
}

// Writes both gradients of a row (over gate and up, if they alias) and returns that of row_weight.
//   silu'(z) = s (1 + z (1 - s)),   s = sigmoid(z)
template <typename T>
Accumulator<T> BackwardRow(const T* d_out, const T* gate, const T* up, Accumulator<T> row_weight,
                           T* d_gate, T* d_up, int64_t size) {
  using A = Accumulator<T>;
  return LaneSum<A>(size, [=](int64_t f) {
    const A z = static_cast<A>(gate[f]), u = static_cast<A>(up[f]);
    const A s = SigmoidF(z);
    const A d = static_cast<A>(d_out[f]);
    const A weighted = d * row_weight;
    d_gate[f] = static_cast<T>(weighted * u * s * (A{1} + z * (A{1} - s)));
    d_up[f] = static_cast<T>(weighted * z * s);
    return d * z * s * u;
  });
}

template <typename T>
void Backward(const SwiGluBackwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t size = args.d_out.shape[1];
  const int64_t rows = RowsInUse("SwiGluBackward", args.row_count, args.d_out.shape[0]);
  for (int64_t r = 0; r < rows; ++r) {
    const T* gate = args.gate_up.as<T>() + r * 2 * size;
    T* d_gate = args.d_gate_up.as<T>() + r * 2 * size;
    const A row_weight = args.row_weight ? args.row_weight.as<A>()[r] : A{1};
    const A d_row_weight = BackwardRow<T>(args.d_out.as<T>() + r * size, gate, gate + size,
                                          row_weight, d_gate, d_gate + size, size);
    if (args.row_weight) args.d_row_weight.as<A>()[r] = d_row_weight;
  }
}

}  // namespace

void SwiGluForward(const SwiGluForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.out.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void SwiGluBackward(const SwiGluBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.d_out.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
