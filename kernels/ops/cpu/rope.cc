#include "kernels/ops/rope.h"

#include <cmath>

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

template <typename A>
void FillTable(const RopeTableArgs& args) {
  const int64_t num_positions = args.table.shape[0], half = args.table.shape[1];
  A* table = args.table.as<A>();
  for (int64_t position = 0; position < num_positions; ++position) {
    for (int64_t c = 0; c < half; ++c) {
      const double frequency =
          std::pow(args.theta, -static_cast<double>(c) / static_cast<double>(half));
      const double angle = static_cast<double>(position) * frequency;
      *table++ = static_cast<A>(std::cos(angle));
      *table++ = static_cast<A>(std::sin(angle));
    }
  }
}

// `row` holds cos, sin of each channel pair; `direction` is -1 to rotate back.
template <typename T>
void RotateHead(T* x, const Accumulator<T>* row, Accumulator<T> direction, int64_t half) {
  using A = Accumulator<T>;
#pragma GCC ivdep
  for (int64_t c = 0; c < half; ++c) {
    const A cosine = row[2 * c], sine = direction * row[2 * c + 1];
    const A a = static_cast<A>(x[c]), b = static_cast<A>(x[c + half]);
    x[c] = static_cast<T>(a * cosine - b * sine);
    x[c + half] = static_cast<T>(b * cosine + a * sine);
  }
}

template <typename T>
void Rotate(const RopeArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_tokens = args.x.shape[0], num_heads = args.x.shape[1], size = args.x.shape[2];
  const int64_t num_positions = args.table.shape[0];
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t position = args.positions.as<int32_t>()[t];
    MUSTER_CHECK(position >= 0 && position < num_positions)
        << "Rope: position " << position << " of token " << t << " is outside the table "
        << args.table.ToString();
    const A* row = args.table.as<A>() + position * size;
    T* token = args.x.as<T>() + t * args.x.strides[0];
    for (int64_t h = 0; h < num_heads; ++h) {
      RotateHead<T>(token + h * size, row, args.backward ? A{-1} : A{1}, size / 2);
    }
  }
}

}  // namespace

void RopeTable(const RopeTableArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.table.dtype, [&](auto tag) { FillTable<decltype(tag)>(args); });
}

void Rope(const RopeArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.x.dtype, [&](auto tag) { Rotate<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
