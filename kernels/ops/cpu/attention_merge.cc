#include "kernels/ops/attention_merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ops/cpu/attention_blocks.h"
#include "kernels/ops/cpu/dtype_switch.h"

namespace muster::kernels::cpu {
namespace {

// One row of one head; returns its new log-sum-exp.
template <typename T, typename A = Accumulator<T>>
A MergeRow(const T* part, A part_lse, A* out, A lse, int64_t channels) {
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  if (part_lse == kNone) return lse;
  const A max = std::max(lse, part_lse);
  const A both = max + std::log1p(std::exp(-std::abs(lse - part_lse)));
  const A keep = std::exp(lse - both), add = std::exp(part_lse - both);
  for (int64_t c = 0; c < channels; ++c) out[c] = keep * out[c] + add * static_cast<A>(part[c]);
  return both;
}

template <typename T>
void Merge(const AttentionMergeArgs& args) {
  using A = Accumulator<T>;
  const int64_t batch = args.part.shape[0], num_rows = args.part.shape[1];
  const int64_t num_heads = args.part.shape[2], channels = args.part.shape[3];
  const int64_t length = args.out.shape[1];
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < num_heads; ++h) {
      const auto part = Head<const T>(args.part, b, h);
      const auto out = Head<A>(args.out, b, h).From(args.begin);
      const A* part_lse = args.part_lse.as<A>() + (b * num_heads + h) * num_rows;
      A* lse = args.lse.as<A>() + (b * num_heads + h) * length + args.begin;
      for (int64_t i = 0; i < num_rows; ++i) {
        lse[i] = MergeRow(part.From(i).data, part_lse[i], out.From(i).data, lse[i], channels);
      }
    }
  }
}

}  // namespace

void AttentionMerge(const AttentionMergeArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.part.dtype, [&](auto tag) { Merge<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
