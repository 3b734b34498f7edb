#include "kernels/ops/reduce.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void AddTyped(const AddArgs& args) {
  using A = Accumulator<T>;
  const T* a = args.a.as<T>();
  const T* b = args.b.as<T>();
  T* out = args.out.as<T>();
  const int64_t n = args.out.num_elements();
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<T>(static_cast<A>(a[i]) + static_cast<A>(b[i]));
  }
}

template <typename T>
void ColumnSumTyped(const ColumnSumArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_rows = args.x.shape[0], num_columns = args.x.shape[1];
  A* out = args.out.as<A>();
  for (int64_t t = 0; t < num_rows; ++t) {
    const T* row = args.x.as<T>() + t * num_columns;
#pragma GCC ivdep
    for (int64_t n = 0; n < num_columns; ++n) out[n] += static_cast<A>(row[n]);
  }
}

// Block by block, so that the sums stay in the first-level cache.
template <typename T>
void SumSlicesTyped(const SumSlicesArgs& args) {
  using A = Accumulator<T>;
  constexpr int64_t kBlock = 1024;
  const int64_t num_slices = args.inputs.shape[0], size = args.inputs.shape[1];
  const T* inputs = args.inputs.as<T>();
  T* out = args.out.as<T>();
  A sums[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = std::min(kBlock, size - begin);
    for (int64_t i = 0; i < count; ++i) sums[i] = A{0};
    for (int64_t slice = 0; slice < num_slices; ++slice) {
      const T* input = inputs + slice * size + begin;
      for (int64_t i = 0; i < count; ++i) sums[i] += static_cast<A>(input[i]);
    }
    for (int64_t i = 0; i < count; ++i) out[begin + i] = static_cast<T>(sums[i]);
  }
}

}  // namespace

void SumOfSquares(const SumOfSquaresArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.dtype, [&](auto tag) {
    for (int64_t r = 0; r < args.table.num_ranges; ++r) {
      const SquaresRange& range = args.table.ranges<SquaresRange>()[r];
      const auto* x = static_cast<const decltype(tag)*>(range.x);
      *args.out.as<double>() += LaneSum<double>(range.count, [x](int64_t i) {
        const double value = static_cast<Accumulator<decltype(tag)>>(x[i]);
        return value * value;
      });
    }
  });
}

void Sum(const SumArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) {
    const auto* x = args.x.as<decltype(tag)>();
    *args.out.as<double>() +=
        args.scale * LaneSum<double>(args.x.num_elements(), [x](int64_t i) {
          return static_cast<double>(static_cast<Accumulator<decltype(tag)>>(x[i]));
        });
  });
}

void ColumnSum(const ColumnSumArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { ColumnSumTyped<decltype(tag)>(args); });
}

void Add(const AddArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.out.dtype, [&](auto tag) { AddTyped<decltype(tag)>(args); });
}

void SumSlices(const SumSlicesArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.out.dtype, [&](auto tag) { SumSlicesTyped<decltype(tag)>(args); });
}

void ClipCoefficient(const ClipCoefficientArgs& args) {
  CheckArgs(args);
  const double sum = *args.sum_of_squares.as<double>();
  const double norm = std::sqrt(sum);
  double scale = 1.0;
  if (!std::isfinite(sum)) {
    scale = 0.0;
  } else if (args.max_norm > 0 && norm > args.max_norm) {
    scale = args.max_norm / (norm + 1e-6);
  }
  *args.norm.as<double>() = norm;
  SwitchAccumulator(args.scale.dtype, [&](auto tag) {
    *args.scale.as<decltype(tag)>() = static_cast<decltype(tag)>(scale);
  });
}

}  // namespace muster::kernels::cpu
