#pragma once
// What both directions of the router share: a warp takes a token and keeps E values in shared
// memory; lane l handles experts l, l + 32, ...
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/topk_route.h"

namespace muster::kernels::cuda {

constexpr int kMaxTokenWarps = 8;  // of a block
// Of a block without asking for more than 48 KiB, less static arrays.
constexpr int kTokenSharedBytes = 47 * 1024;
// Added to the sum by which weights are normalised: scores that all underflow give 0, not NaN.
constexpr float kTiny = 1e-20f;

// As many warps a block as have room for `arrays` of E floats each; 0 blocks if none has.
inline LaunchShape TokenShape(int64_t num_tokens, int64_t num_experts, int arrays) {
  const int64_t bytes = num_experts * arrays * static_cast<int64_t>(sizeof(float));
  const int warps = static_cast<int>(std::min<int64_t>(kMaxTokenWarps, kTokenSharedBytes / bytes));
  if (warps == 0) return {};
  return {.blocks = CeilDiv(num_tokens, warps),
          .threads_x = kWarp,
          .threads_y = warps,
          .shared_bytes = static_cast<int>(bytes) * warps};
}

// e^(logits - max) into `out`, and their sum and maximum.
__device__ inline void Exponentials(const float* logits, float* out, int num_experts, float& sum,
                                    float& max) {
  max = -INFINITY;
  for (int e = threadIdx.x; e < num_experts; e += kWarp) max = fmaxf(max, logits[e]);
  max = WarpMax(max);
  sum = 0;
  for (int e = threadIdx.x; e < num_experts; e += kWarp) {
    out[e] = expf(logits[e] - max);
    sum += out[e];
  }
  sum = WarpSum(sum);
}

// What the chosen scores are divided by before they are scaled.
__device__ inline float Divisor(const RouterOptions& options, const float* scores,
                                const int32_t* experts) {
  if (!options.normalise) return 1.0f;
  float sum = kTiny;
  for (int j = 0; j < options.top_k; ++j) sum += scores[experts[j]];
  return sum;
}

}  // namespace muster::kernels::cuda
