// Cross-entropy in two passes over the logits: statistics (reads them once) and the gradient in
// place (reads and writes once). A block takes a token's row of the vocabulary. A row may start
// anywhere: the elements before the first and after the last 16-byte boundary are taken one by one.
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr int kRowThreads = 512;

// Calls body.template operator()<width>(offset) over a row, by all threads of the block.
template <typename T, typename Body>
__device__ void ForEachOfRow(const T* row, int64_t size, Body body) {
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const int64_t past = reinterpret_cast<uintptr_t>(row) % kVectorBytes / sizeof(T);
  const int64_t head = min((kWidth - past) % kWidth, size);
  const int64_t vectors = (size - head) / kWidth, tail = head + vectors * kWidth;
  if (threadIdx.x < head) body.template operator()<1>(threadIdx.x);
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
    body.template operator()<kWidth>(head + i * kWidth);
  }
  if (tail + threadIdx.x < size) body.template operator()<1>(tail + threadIdx.x);
}

// sum exp(-max) rescaled to a larger maximum. Under -inf there was no element yet.
__device__ float Rescaled(float sum, float max, float new_max) {
  return max == -INFINITY ? sum : sum * FastExp(max - new_max);
}

template <typename T>
__global__ void StatsKernel(const T* logits, const int32_t* targets, float* stats, int64_t size,
                            int64_t stride, int64_t vocab_begin) {
  const int64_t t = blockIdx.x;
  const T* row = logits + t * stride;
  float max = -INFINITY, sum = 0;
  ForEachOfRow(row, size, [&]<int kWidth>(int64_t offset) {
    float values[kWidth];
    LoadFloats(row + offset, values);
    float new_max = max;  // fmaxf passes over a NaN, which then shows in the sum.
#pragma unroll
    for (int i = 0; i < kWidth; ++i) new_max = fmaxf(new_max, values[i]);
    // All -inf so far: any finite reference gives the right sum, 0.
    const float reference = new_max == -INFINITY ? 0.0f : new_max;
    sum = Rescaled(sum, max, reference);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum += FastExp(values[i] - reference);
    max = new_max;
  });
  const float row_max = RowMax(max);
  const float row_sum = RowSum(Rescaled(sum, max, row_max));
  if (threadIdx.x != 0) return;
  const int64_t target = targets[t] < 0 ? -1 : targets[t] - vocab_begin;
  stats[3 * t] = row_max;
  stats[3 * t + 1] = row_sum;
  stats[3 * t + 2] = target >= 0 && target < size ? ToFloat(row[target]) : -INFINITY;
}

struct Merge {
  const float* shards;
  float* stats;
  int64_t num_shards, num_tokens;

  template <int kWidth>
  __device__ void Run(int64_t t) const {
    float max = -INFINITY, sum = 0, target_logit = -INFINITY;
    for (int64_t s = 0; s < num_shards; ++s) {
      const float* shard = shards + 3 * (s * num_tokens + t);
      max = fmaxf(max, shard[0]);
      target_logit = fmaxf(target_logit, shard[2]);
    }
    for (int64_t s = 0; s < num_shards; ++s) {
      const float* shard = shards + 3 * (s * num_tokens + t);
      sum += Rescaled(shard[1], shard[0], max);
    }
    stats[3 * t] = max;
    stats[3 * t + 1] = sum;
    stats[3 * t + 2] = target_logit;
  }
};

struct Loss {
  const float* stats;
  const int32_t* targets;
  float* losses;

  template <int kWidth>
  __device__ void Run(int64_t t) const {
    const float* of_token = stats + 3 * t;
    losses[t] = targets[t] >= 0 ? logf(of_token[1]) + of_token[0] - of_token[2] : 0.0f;
  }
};

template <typename T>
__global__ void BackwardKernel(T* logits, const int32_t* targets, const float* stats, float scale,
                               int64_t size, int64_t stride, int64_t vocab_begin) {
  const int64_t t = blockIdx.x, target = targets[t] - vocab_begin;
  const bool counts = targets[t] >= 0;
  const float max = stats[3 * t], factor = scale / stats[3 * t + 1];
  T* row = logits + t * stride;
  ForEachOfRow(row, size, [&]<int kWidth>(int64_t offset) {
    float values[kWidth] = {};
    if (counts) {
      LoadFloats(row + offset, values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        values[i] = FastExp(values[i] - max) * factor;
        if (offset + i == target) values[i] -= scale;
      }
    }
    StoreFloats(row + offset, values);
  });
}

LaunchShape ShapeOf(const TensorView& logits) {
  return {.blocks = logits.shape[1] == 0 ? 0 : logits.shape[0], .threads_x = kRowThreads};
}

}  // namespace

void CrossEntropyStats(const CrossEntropyStatsArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t size = args.logits.shape[1];
  SwitchStorage("CrossEntropyStats", args.logits.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Launch("CrossEntropyStats", stream, StatsKernel<T>, ShapeOf(args.logits),
           Elements<T>(args.logits), Elements<int32_t>(args.targets), Elements<float>(args.stats),
           size, args.logits.strides[0], args.vocab_begin);
  });
}

void CrossEntropyMergeStats(const CrossEntropyMergeStatsArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsFloat32("CrossEntropyMergeStats", args.stats.dtype, stream)) return;
  const Merge merge{Elements<float>(args.shards), Elements<float>(args.stats), args.shards.shape[0],
                    args.shards.shape[1]};
  RunFlat<1>("CrossEntropyMergeStats", merge.num_tokens, {}, merge, stream);
}

void CrossEntropyLoss(const CrossEntropyLossArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsFloat32("CrossEntropyLoss", args.losses.dtype, stream)) return;
  const Loss loss{Elements<float>(args.stats), Elements<int32_t>(args.targets),
                  Elements<float>(args.losses)};
  RunFlat<1>("CrossEntropyLoss", args.losses.shape[0], {}, loss, stream);
}

void CrossEntropyBackward(const CrossEntropyBackwardArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t size = args.logits.shape[1];
  SwitchStorage("CrossEntropyBackward", args.logits.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Launch("CrossEntropyBackward", stream, BackwardKernel<T>, ShapeOf(args.logits),
           Elements<T>(args.logits), Elements<int32_t>(args.targets), Elements<float>(args.stats),
           args.scale, size, args.logits.strides[0], args.vocab_begin);
  });
}

}  // namespace muster::kernels::cuda
