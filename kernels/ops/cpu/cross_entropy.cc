#include "kernels/ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ops/cpu/dtype_switch.h"
#include "kernels/ops/cpu/lane_sum.h"
#include "kernels/ops/cpu/vector_math.h"

namespace muster::kernels::cpu {
namespace {

template <typename A>
struct Stats {
  A max, sum, target_logit;
};

template <typename A>
constexpr A kMinusInfinity = -std::numeric_limits<A>::infinity();

// In lanes, as LaneSum; a NaN is passed over here and shows in the sum.
template <typename T>
Accumulator<T> Largest(const T* x, int64_t n) {
  using A = Accumulator<T>;
  A lanes[kLanes];
  std::fill_n(lanes, kLanes, kMinusInfinity<A>);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    // g++ would unroll this into scalar code before it looks for vectors.
#pragma GCC unroll 1
    for (int lane = 0; lane < kLanes; ++lane) {
      const A value = static_cast<A>(x[i + lane]);
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  }
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], static_cast<A>(x[i]));
  return *std::max_element(lanes, lanes + kLanes);
}

// sum exp(-max) rescaled from one maximum to a larger one. The sum under a maximum of -inf is that
// of no element: 0.
template <typename A>
A Rescaled(A sum, A max, A new_max) {
  return max == kMinusInfinity<A> ? sum : sum * ExpF(max - new_max);
}

// One pass over memory: maximum and sum of a block while it is in cache, then merged into the
// row's.
template <typename T>
Stats<Accumulator<T>> RowStats(const T* logits, int64_t size, int64_t target) {
  using A = Accumulator<T>;
  constexpr int64_t kBlock = 2048;
  Stats<A> stats{kMinusInfinity<A>, A{0}, kMinusInfinity<A>};
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = std::min(kBlock, size - begin);
    const T* block = logits + begin;
    const A max = std::max(stats.max, Largest<T>(block, count));
    // All -inf so far: any finite reference gives the right sum, 0.
    const A reference = max == kMinusInfinity<A> ? A{0} : max;
    const A sum =
        LaneSum<A>(count, [=](int64_t i) { return ExpF(static_cast<A>(block[i]) - reference); });
    stats.sum = Rescaled(stats.sum, stats.max, max) + sum;
    stats.max = max;
  }
  if (target >= 0 && target < size) stats.target_logit = static_cast<A>(logits[target]);
  return stats;
}

template <typename T>
void StatsTyped(const CrossEntropyStatsArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_tokens = args.logits.shape[0], size = args.logits.shape[1];
  const int64_t stride = args.logits.strides[0];
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int64_t target = args.targets.as<int32_t>()[t];
    const Stats<A> stats = RowStats<T>(args.logits.as<T>() + t * stride, size,
                                       target < 0 ? -1 : target - args.vocab_begin);
    A* out = args.stats.as<A>() + 3 * t;
    out[0] = stats.max;
    out[1] = stats.sum;
    out[2] = stats.target_logit;
  }
}

template <typename A>
void MergeTyped(const CrossEntropyMergeStatsArgs& args) {
  const int64_t num_shards = args.shards.shape[0], num_tokens = args.shards.shape[1];
  for (int64_t t = 0; t < num_tokens; ++t) {
    const auto shard = [&](int64_t s) { return args.shards.as<A>() + 3 * (s * num_tokens + t); };
    Stats<A> merged{kMinusInfinity<A>, A{0}, kMinusInfinity<A>};
    for (int64_t s = 0; s < num_shards; ++s) {
      merged.max = std::max(merged.max, shard(s)[0]);
      merged.target_logit = std::max(merged.target_logit, shard(s)[2]);
    }
    for (int64_t s = 0; s < num_shards; ++s) {
      merged.sum += Rescaled(shard(s)[1], shard(s)[0], merged.max);
    }
    A* out = args.stats.as<A>() + 3 * t;
    out[0] = merged.max;
    out[1] = merged.sum;
    out[2] = merged.target_logit;
  }
}

template <typename A>
void LossTyped(const CrossEntropyLossArgs& args) {
  for (int64_t t = 0; t < args.losses.shape[0]; ++t) {
    const A* stats = args.stats.as<A>() + 3 * t;
    const bool counts = args.targets.as<int32_t>()[t] >= 0;
    args.losses.as<A>()[t] = counts ? std::log(stats[1]) + stats[0] - stats[2] : A{0};
  }
}

template <typename T>
void BackwardTyped(const CrossEntropyBackwardArgs& args) {
  using A = Accumulator<T>;
  const int64_t num_tokens = args.logits.shape[0], size = args.logits.shape[1];
  const A scale = static_cast<A>(args.scale);
  for (int64_t t = 0; t < num_tokens; ++t) {
    T* row = args.logits.as<T>() + t * args.logits.strides[0];
    const int64_t id = args.targets.as<int32_t>()[t];
    if (id < 0) {
      std::fill_n(row, size, T{});
      continue;
    }
    const A max = args.stats.as<A>()[3 * t], sum = args.stats.as<A>()[3 * t + 1];
    const int64_t target = id - args.vocab_begin;
    const bool owned = target >= 0 && target < size;
    const A target_logit = owned ? static_cast<A>(row[target]) : A{0};
    const A factor = scale / sum;
    for (int64_t v = 0; v < size; ++v) {
      row[v] = static_cast<T>(ExpF(static_cast<A>(row[v]) - max) * factor);
    }
    // From the logit, not from row[target], which is already rounded to storage.
    if (owned) {
      row[target] = static_cast<T>(ExpF(target_logit - max) * factor - scale);
    }
  }
}

}  // namespace

void CrossEntropyStats(const CrossEntropyStatsArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.logits.dtype, [&](auto tag) { StatsTyped<decltype(tag)>(args); });
}

void CrossEntropyMergeStats(const CrossEntropyMergeStatsArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.stats.dtype, [&](auto tag) { MergeTyped<decltype(tag)>(args); });
}

void CrossEntropyLoss(const CrossEntropyLossArgs& args) {
  CheckArgs(args);
  SwitchAccumulator(args.losses.dtype, [&](auto tag) { LossTyped<decltype(tag)>(args); });
}

void CrossEntropyBackward(const CrossEntropyBackwardArgs& args) {
  CheckArgs(args);
  SwitchStorage(args.logits.dtype, [&](auto tag) { BackwardTyped<decltype(tag)>(args); });
}

}  // namespace muster::kernels::cpu
