// Per key/value head, so that d_k and d_v of a group of query heads sum up in one place: for each
// block of queries and of keys the probabilities are made again from the log-sum-exp,
//   p = exp(scale q k^T - lse),  d_p = d_out v^T,  d_s = scale p (d_p - delta),
//   d_v += p^T d_out,  d_k += d_s^T q,  d_q += d_s k:
// five matrix products. All sums run in the accumulator type and are rounded once.
#include <algorithm>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/cpu/attention_blocks.h"
#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"
#include "kernels/ops/cpu/vector_math.h"

namespace muster::kernels::cpu {
namespace {

// A thread's blocks in the accumulator type; k and d_k hold a whole head, [Sk, C], v and d_v
// [Sk, Cv]. They grow to the largest call and stay.
template <typename A>
struct BackwardScratch {
  std::vector<A> q, k, v, d_out, p, d_s, d_q, d_k, d_v;
};

// One query head against the keys of its group.
template <typename T>
struct BackwardHead {
  using A = Accumulator<T>;
  HeadRows<const T> q, d_out, out;
  HeadRows<T> d_q;
  const A* lse;
  A* delta;
  const A *k, *v;  // [Sk, C], [Sk, Cv]
  A *d_k, *d_v;    // the same, added to
  Mask mask;
  int64_t channels, value_channels;  // C, Cv
  A scale;
};

// delta = sum_c d_out out, of query rows [begin, begin + count).
template <typename T>
void ComputeDelta(const BackwardHead<T>& head, int64_t begin, int64_t count) {
  using A = Accumulator<T>;
  for (int64_t i = begin; i < begin + count; ++i) {
    const T* d_out = head.d_out.From(i).data;
    const T* out = head.out.From(i).data;
    head.delta[i] = LaneSum<A>(head.value_channels, [=](int64_t c) {
      return static_cast<A>(d_out[c]) * static_cast<A>(out[c]);
    });
  }
}

// From scores and d_p of a row to p and d_s, in place; hidden keys get 0. A row whose lse
// is -infinity sees no key: visible is 0, and lse is not used.
template <typename A>
void GradientRow(A* scores, A* d_p, int64_t visible, int64_t num_keys, A lse, A delta, A scale) {
  const int64_t padded = PadScores(scores, visible);
#pragma GCC ivdep
  for (int64_t j = 0; j < padded; ++j) {
    const A p = ExpF(scores[j] - lse);
    scores[j] = p;
    d_p[j] = scale * p * (d_p[j] - delta);
  }
  const int64_t end = std::max(visible, num_keys);
  std::fill(scores + visible, scores + end, A{0});
  std::fill(d_p + visible, d_p + end, A{0});
}

// Query rows [begin, begin + count), and their blocks.
template <typename A>
struct QueryBlock {
  int64_t begin, count;
  const A *q, *d_out;  // [count, C], [count, Cv]
  A* d_q;              // [count, C], added to
};

// A block of queries against keys [key, key + num_keys).
template <typename T, typename A = Accumulator<T>>
void BackwardKeys(const BackwardHead<T>& head, const QueryBlock<A>& block, int64_t key,
                  int64_t num_keys, BackwardScratch<A>& scratch) {
  const int64_t channels = head.channels, value_channels = head.value_channels;
  const int64_t at = key * channels, value_at = key * value_channels;
  A* p = scratch.p.data();
  A* d_s = scratch.d_s.data();
  const auto score_product = [&](const A* rows, const A* key_rows, int64_t width, A* scores,
                                 A alpha) {
    Gemm(GemmArgs<A>{.m = block.count,
                     .n = num_keys,
                     .k = width,
                     .a = rows,
                     .a_stride = width,
                     .b = key_rows,
                     .b_stride = width,
                     .c = scores,
                     .c_stride = kKeyBlock,
                     .b_transposed = true,
                     .alpha = alpha});
  };
  score_product(block.q, head.k + at, channels, p, head.scale);
  score_product(block.d_out, head.v + value_at, value_channels, d_s, 1);
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t row = block.begin + i;
    const int64_t visible = std::clamp<int64_t>(head.mask.End(row) - key, 0, num_keys);
    GradientRow(p + i * kKeyBlock, d_s + i * kKeyBlock, visible, num_keys, head.lse[row],
                head.delta[row], head.scale);
  }
  const auto key_product = [&](const A* scores, const A* rows, int64_t width, A* key_rows) {
    Gemm(GemmArgs<A>{.m = num_keys,
                     .n = width,
                     .k = block.count,
                     .a = scores,
                     .a_stride = kKeyBlock,
                     .b = rows,
                     .b_stride = width,
                     .c = key_rows,
                     .c_stride = width,
                     .a_transposed = true,
                     .beta = 1});
  };
  key_product(p, block.d_out, value_channels, head.d_v + value_at);
  key_product(d_s, block.q, channels, head.d_k + at);
  Gemm(GemmArgs<A>{.m = block.count,
                   .n = channels,
                   .k = num_keys,
                   .a = d_s,
                   .a_stride = kKeyBlock,
                   .b = head.k + at,
                   .b_stride = channels,
                   .c = block.d_q,
                   .c_stride = channels,
                   .beta = 1});
}

template <typename T, typename A = Accumulator<T>>
void BackwardQueries(const BackwardHead<T>& head, int64_t begin, int64_t count,
                     BackwardScratch<A>& scratch) {
  ComputeDelta(head, begin, count);
  const int64_t channels = head.channels;
  const QueryBlock<A> block = {
      .begin = begin,
      .count = count,
      .q = Load(head.q.From(begin), count, channels, scratch.q),
      .d_out = Load(head.d_out.From(begin), count, head.value_channels, scratch.d_out),
      .d_q = Reserve(scratch.d_q, kQueryBlock * channels)};
  std::fill_n(block.d_q, count * channels, A{0});
  const int64_t keys_end = head.mask.End(begin + count - 1);
  for (int64_t key = 0; key < keys_end; key += kKeyBlock) {
    BackwardKeys<T>(head, block, key, std::min(kKeyBlock, keys_end - key), scratch);
  }
  Store(block.d_q, count, channels, head.d_q.From(begin));
}

// All query heads of one key/value head.
template <typename T>
void BackwardGroup(const AttentionBackwardArgs& args, int64_t batch, int64_t kv_head,
                   BackwardScratch<Accumulator<T>>& scratch) {
  using A = Accumulator<T>;
  const int64_t num_queries = args.q.shape[1], num_heads = args.q.shape[2];
  const int64_t num_keys = args.k.shape[1];
  const int64_t channels = args.q.shape[3], value_channels = args.v.shape[3];
  const int64_t group = num_heads / args.k.shape[2];
  const A* k = Load(Head<const T>(args.k, batch, kv_head), num_keys, channels, scratch.k);
  const A* v = Load(Head<const T>(args.v, batch, kv_head), num_keys, value_channels, scratch.v);
  A* d_k = Reserve(scratch.d_k, num_keys * channels);
  A* d_v = Reserve(scratch.d_v, num_keys * value_channels);
  std::fill_n(d_k, num_keys * channels, A{0});
  std::fill_n(d_v, num_keys * value_channels, A{0});
  Reserve(scratch.p, kQueryBlock * kKeyBlock);
  Reserve(scratch.d_s, kQueryBlock * kKeyBlock);
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const int64_t row = (batch * num_heads + h) * num_queries;
    const BackwardHead<T> head = {.q = Head<const T>(args.q, batch, h),
                                  .d_out = Head<const T>(args.d_out, batch, h),
                                  .out = Head<const T>(args.out, batch, h),
                                  .d_q = Head<T>(args.d_q, batch, h),
                                  .lse = args.lse.as<A>() + row,
                                  .delta = args.delta.as<A>() + row,
                                  .k = k,
                                  .v = v,
                                  .d_k = d_k,
                                  .d_v = d_v,
                                  .mask = {args.causal, args.q_begin - args.k_begin, num_keys},
                                  .channels = channels,
                                  .value_channels = value_channels,
                                  .scale = static_cast<A>(args.scale)};
    for (int64_t begin = 0; begin < num_queries; begin += kQueryBlock) {
      BackwardQueries(head, begin, std::min(kQueryBlock, num_queries - begin), scratch);
    }
  }
  Store(d_k, num_keys, channels, Head<T>(args.d_k, batch, kv_head));
  Store(d_v, num_keys, value_channels, Head<T>(args.d_v, batch, kv_head));
}

template <typename T>
void Backward(const AttentionBackwardArgs& args) {
  const int64_t num_kv_heads = args.k.shape[2];
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < args.q.shape[0] * num_kv_heads; ++index) {
    thread_local BackwardScratch<Accumulator<T>> scratch;
    BackwardGroup<T>(args, index / num_kv_heads, index % num_kv_heads, scratch);
  }
}

}  // namespace

void AttentionBackward(const AttentionBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.q.dtype, [&](auto tag) { Backward<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
