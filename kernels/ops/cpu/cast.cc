#include "kernels/ops/cast.h"

#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

// Rounds to odd: the fp32 next to `value` towards zero, with its last bit set if that was inexact.
// Rounding the result once more to nearest even then equals rounding `value` itself, because fp32
// has more than two bits over bf16 (Boldo & Melquiond, "Emulation of FMA and correctly rounded
// sums: proved algorithms using rounding to odd", 2008).
float RoundToOdd(double value) {
  const float nearest = static_cast<float>(value);
  if (std::isnan(value) || static_cast<double>(nearest) == value) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

template <typename To, typename From>
void CastTyped(const CastArgs& args) {
  const From* x = args.x.as<From>();
  To* out = args.out.as<To>();
  const int64_t n = args.x.num_elements();
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_same_v<From, double> && std::is_same_v<To, BFloat16>) {
      out[i] = BFloat16(RoundToOdd(x[i]));
    } else if constexpr (std::is_same_v<From, To>) {
      out[i] = x[i];
    } else {
      out[i] = static_cast<To>(static_cast<Accumulator<From>>(x[i]));
    }
  }
}

// Walks the rows (all dims but the last) of x and tells the global index of each row's start.
template <typename T>
void FillNormalTyped(const FillNormalArgs& args) {
  const int rank = args.x.rank(), last = rank - 1;
  const int64_t row_size = args.x.shape[last];
  const int64_t num_rows = row_size == 0 ? 0 : args.x.num_elements() / row_size;
  T* x = args.x.as<T>();
  for (int64_t row = 0; row < num_rows; ++row) {
    // From the row's position in x to its position in the global tensor, innermost dim first.
    int64_t rest = row, global_start = args.begin[last], stride = args.global_shape[last];
    for (int dim = last - 1; dim >= 0; --dim) {
      global_start += (args.begin[dim] + rest % args.x.shape[dim]) * stride;
      stride *= args.global_shape[dim];
      rest /= args.x.shape[dim];
    }
    for (int64_t i = 0; i < row_size; ++i) {
      const auto index = static_cast<uint64_t>(global_start + i);
      x[row * row_size + i] = static_cast<T>(NormalFromBlock(Philox(args.key, index)) * args.std);
    }
  }
}

}  // namespace

void Cast(const CastArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto from) {
    SwitchStorage(args.out.dtype, [&](auto to) { CastTyped<decltype(to), decltype(from)>(args); });
  });
}

void Fill(const FillArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    T value;
    if constexpr (std::is_same_v<T, BFloat16>) {
      value = BFloat16(RoundToOdd(args.value));
    } else {
      value = static_cast<T>(args.value);
    }
    T* x = args.x.as<T>();
    const int64_t n = args.x.num_elements();
    for (int64_t i = 0; i < n; ++i) x[i] = value;
  });
}

void FillNormal(const FillNormalArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { FillNormalTyped<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
