// For each head and block of queries: scores against a block of keys by one matrix product, softmax
// with a running maximum and sum per row (Milakov & Gimelshein, "Online normalizer calculation for
// softmax", 2018), product with the values by another. Keys that no query of the block sees are cut
// off before the products; of the rest the causal mask wastes kQueryBlock / S.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/cpu/attention_blocks.h"
#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/vector_math.h"

namespace muster::kernels::cpu {
namespace {

// A thread's blocks in the accumulator type; k and v hold a whole head, [Sk, C] and [Sk, Cv]. They
// grow to the largest call and stay.
template <typename A>
struct ForwardScratch {
  std::vector<A> q, k, v, scores, out;
  A max[kQueryBlock], sum[kQueryBlock];
};

// Turns `visible` scores into exp(score - max) and the hidden ones up to num_keys into 0; updates
// the row's running max and sum. Returns the factor for what was summed under the old maximum.
template <typename A>
A SoftmaxRow(A* scores, int64_t visible, int64_t num_keys, A& max, A& sum) {
  A factor = 1;
  if (visible > 0) {
    const int64_t padded = PadScores(scores, visible);
    const A new_max = std::max(max, MaxOfPadded(scores, padded));
    A lanes[kScoreLanes] = {};
    for (int64_t j = 0; j < padded; j += kScoreLanes) {
      for (int64_t lane = 0; lane < kScoreLanes; ++lane) {
        const A p = ExpF(scores[j + lane] - new_max);
        scores[j + lane] = p;
        lanes[lane] += p;
      }
    }
    factor = ExpF(max - new_max);  // 0 for the first keys a row sees: max is -infinity
    sum *= factor;
    for (A lane : lanes) sum += lane;
    max = new_max;
  }
  std::fill(scores + visible, scores + std::max(visible, num_keys), A{0});
  return factor;
}

// One query head against the keys and values of its group.
template <typename T>
struct ForwardHead {
  using A = Accumulator<T>;
  HeadRows<const T> q;
  HeadRows<T> out;
  A* lse;
  const A *k, *v;  // [Sk, C], [Sk, Cv]
  Mask mask;
  int64_t channels, value_channels;  // C, Cv
  A scale;
};

// Query rows [begin, begin + count).
template <typename T, typename A = Accumulator<T>>
void ForwardBlock(const ForwardHead<T>& head, int64_t begin, int64_t count,
                  ForwardScratch<A>& scratch) {
  const int64_t channels = head.channels, value_channels = head.value_channels;
  const A* q = Load(head.q.From(begin), count, channels, scratch.q);
  A* scores = Reserve(scratch.scores, kQueryBlock * kKeyBlock);
  A* out = Reserve(scratch.out, kQueryBlock * value_channels);
  std::fill_n(out, count * value_channels, A{0});
  std::fill_n(scratch.max, count, -std::numeric_limits<A>::infinity());
  std::fill_n(scratch.sum, count, A{0});
  const int64_t keys_end = head.mask.End(begin + count - 1);
  for (int64_t key = 0; key < keys_end; key += kKeyBlock) {
    const int64_t num_keys = std::min(kKeyBlock, keys_end - key);
    Gemm(GemmArgs<A>{.m = count,
                     .n = num_keys,
                     .k = channels,
                     .a = q,
                     .a_stride = channels,
                     .b = head.k + key * channels,
                     .b_stride = channels,
                     .c = scores,
                     .c_stride = kKeyBlock,
                     .b_transposed = true,
                     .alpha = head.scale});
    for (int64_t i = 0; i < count; ++i) {
      const int64_t visible = std::clamp<int64_t>(head.mask.End(begin + i) - key, 0, num_keys);
      const A factor =
          SoftmaxRow(scores + i * kKeyBlock, visible, num_keys, scratch.max[i], scratch.sum[i]);
      if (factor == 1) continue;
      for (int64_t c = 0; c < value_channels; ++c) out[i * value_channels + c] *= factor;
    }
    Gemm(GemmArgs<A>{.m = count,
                     .n = value_channels,
                     .k = num_keys,
                     .a = scores,
                     .a_stride = kKeyBlock,
                     .b = head.v + key * value_channels,
                     .b_stride = value_channels,
                     .c = out,
                     .c_stride = value_channels,
                     .beta = 1});
  }
  for (int64_t i = 0; i < count; ++i) {
    const A sum = scratch.sum[i];
    const A inverse = sum == 0 ? A{0} : A{1} / sum;  // sum 0: no key was seen
    for (int64_t c = 0; c < value_channels; ++c) out[i * value_channels + c] *= inverse;
    head.lse[begin + i] = scratch.max[i] + std::log(sum);
  }
  Store(out, count, value_channels, head.out.From(begin));
}

// All query heads of one key/value head.
template <typename T>
void ForwardGroup(const AttentionForwardArgs& args, int64_t batch, int64_t kv_head,
                  ForwardScratch<Accumulator<T>>& scratch) {
  using A = Accumulator<T>;
  const int64_t num_queries = args.q.shape[1], num_heads = args.q.shape[2];
  const int64_t num_keys = args.k.shape[1];
  const int64_t channels = args.q.shape[3], value_channels = args.v.shape[3];
  const int64_t group = num_heads / args.k.shape[2];
  const A* k = Load(Head<const T>(args.k, batch, kv_head), num_keys, channels, scratch.k);
  const A* v = Load(Head<const T>(args.v, batch, kv_head), num_keys, value_channels, scratch.v);
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const ForwardHead<T> head = {.q = Head<const T>(args.q, batch, h),
                                 .out = Head<T>(args.out, batch, h),
                                 .lse = args.lse.as<A>() + (batch * num_heads + h) * num_queries,
                                 .k = k,
                                 .v = v,
                                 .mask = {args.causal, args.q_begin - args.k_begin, num_keys},
                                 .channels = channels,
                                 .value_channels = value_channels,
                                 .scale = static_cast<A>(args.scale)};
    for (int64_t begin = 0; begin < num_queries; begin += kQueryBlock) {
      ForwardBlock(head, begin, std::min(kQueryBlock, num_queries - begin), scratch);
    }
  }
}

template <typename T>
void Forward(const AttentionForwardArgs& args) {
  const int64_t num_kv_heads = args.k.shape[2];
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < args.q.shape[0] * num_kv_heads; ++index) {
    thread_local ForwardScratch<Accumulator<T>> scratch;
    ForwardGroup<T>(args, index / num_kv_heads, index % num_kv_heads, scratch);
  }
}

}  // namespace

void AttentionForward(const AttentionForwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.q.dtype, [&](auto tag) { Forward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
