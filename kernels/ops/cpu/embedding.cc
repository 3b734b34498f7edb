#include "kernels/ops/embedding.h"

#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

template <typename T>
void ForwardRow(const T* token_row, const T* position_row, T* out, int64_t dim) {
  using A = Accumulator<T>;
  for (int64_t d = 0; d < dim; ++d) {
    A value = token_row != nullptr ? static_cast<A>(token_row[d]) : A{0};
    if (position_row != nullptr) value += static_cast<A>(position_row[d]);
    out[d] = static_cast<T>(value);
  }
}

template <typename T>
void Forward(const EmbeddingForwardArgs& args) {
  const int64_t num_rows = args.table.shape[0], dim = args.table.shape[1];
  for (int64_t t = 0; t < args.tokens.shape[0]; ++t) {
    const int64_t row = args.tokens.as<int32_t>()[t] - args.vocab_begin;
    const T* token_row = row >= 0 && row < num_rows ? args.table.as<T>() + row * dim : nullptr;
    const T* position_row = nullptr;
    if (args.position_table) {
      const int64_t position = args.positions.as<int32_t>()[t];
      MUSTER_CHECK(position >= 0 && position < args.position_table.shape[0])
          << "EmbeddingForward: position " << position << " of token " << t
          << " is outside the position table " << args.position_table.ToString();
      position_row = args.position_table.as<T>() + position * dim;
    }
    ForwardRow<T>(token_row, position_row, args.out.as<T>() + t * dim, dim);
  }
}

template <typename T>
void Backward(const EmbeddingBackwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_rows = args.d_table.shape[0], dim = args.d_table.shape[1];
  for (int64_t t = 0; t < args.indices.shape[0]; ++t) {
    const int64_t row = args.indices.as<int32_t>()[t] - args.vocab_begin;
    if (row < 0 || row >= num_rows) continue;
    const T* d_out = args.d_out.as<T>() + t * dim;
    A* d_row = args.d_table.as<A>() + row * dim;
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) d_row[d] += static_cast<A>(d_out[d]);
  }
}

}  // namespace

void EmbeddingForward(const EmbeddingForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.table.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

void EmbeddingBackward(const EmbeddingBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.d_out.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
