// The router's scores and choice: reads the logits and writes the scores once. The choice takes
// top_k passes over the E values in shared memory, which is what it costs for many experts.
#include "kernels/ops/cuda/topk_tokens.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// The index of the best of values[0, n) that is not taken (NaN stands for taken), ties to the lower
// index; marks it taken. All lanes get it.
__device__ int TakeBest(float* values, int n) {
  float best = -INFINITY;
  int index = n;
  for (int i = threadIdx.x; i < n; i += kWarp) {
    const float value = values[i];
    if (!isnan(value) && (index == n || value > best)) {
      best = value;
      index = i;
    }
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, distance);
    const int other_index = __shfl_xor_sync(kAllLanes, index, distance);
    if (other_index < n && (index == n || other > best || (other == best && other_index < index))) {
      best = other;
      index = other_index;
    }
  }
  __syncwarp();
  if (threadIdx.x == 0) values[index] = NAN;
  __syncwarp();
  return index;
}

// Marks the experts outside the best groups as taken. A group's value is the sum of its two best
// (of its one, if it has only one).
__device__ void ExcludeOtherGroups(const RouterOptions& options, float* values, float* group_values,
                                   int num_experts) {
  const int size = num_experts / options.groups;
  for (int g = threadIdx.x; g < options.groups; g += kWarp) {
    float best = values[g * size], second = -INFINITY;
    for (int i = 1; i < size; ++i) {
      const float value = values[g * size + i];
      second = fmaxf(second, fminf(best, value));
      best = fmaxf(best, value);
    }
    const float value = size > 1 ? best + second : best;
    group_values[g] = isnan(value) ? -INFINITY : value;
  }
  __syncwarp();
  for (int j = 0; j < options.group_top_k; ++j) TakeBest(group_values, options.groups);
  for (int e = threadIdx.x; e < num_experts; e += kWarp) {
    if (!isnan(group_values[e / size])) values[e] = NAN;
  }
  __syncwarp();
}

struct ForwardTokens {
  const float *logits, *bias;
  float* scores;
  int32_t* experts;
  float* weights;
  int64_t num_tokens;
  int num_experts;
  RouterOptions options;
};

__global__ void ForwardKernel(ForwardTokens tokens) {
  extern __shared__ float shared[];
  const RouterOptions& options = tokens.options;
  const int num_experts = tokens.num_experts;
  float* scores = shared + threadIdx.y * 3 * num_experts;
  float *values = scores + num_experts, *group_values = values + num_experts;
  const int64_t t = RowOfThread();
  if (t >= tokens.num_tokens) return;
  const float* logits = tokens.logits + t * num_experts;
  float sum = 1, max = 0;
  if (options.score == RouterScore::kSoftmax) {
    Exponentials(logits, scores, num_experts, sum, max);
  } else {
    for (int e = threadIdx.x; e < num_experts; e += kWarp) {
      scores[e] = 1.0f / (1.0f + expf(-logits[e]));
    }
  }
  for (int e = threadIdx.x; e < num_experts; e += kWarp) {
    const float score = scores[e] / sum;
    scores[e] = score;
    tokens.scores[t * num_experts + e] = score;
    const float value = score + (tokens.bias != nullptr ? tokens.bias[e] : 0.0f);
    values[e] = isnan(value) ? -INFINITY : value;  // NaN stands for taken.
  }
  __syncwarp();
  if (options.groups > 1) ExcludeOtherGroups(options, values, group_values, num_experts);
  int32_t* experts = tokens.experts + t * options.top_k;
  float chosen_sum = kTiny;
  for (int j = 0; j < options.top_k; ++j) {
    const int expert = TakeBest(values, num_experts);
    chosen_sum += scores[expert];
    if (threadIdx.x == 0) experts[j] = expert;
  }
  __syncwarp();
  const float factor = options.scale / (options.normalise ? chosen_sum : 1.0f);
  for (int j = threadIdx.x; j < options.top_k; j += kWarp) {
    tokens.weights[t * options.top_k + j] = scores[experts[j]] * factor;
  }
}

}  // namespace

void TopkRouteForward(const TopkRouteForwardArgs& args, StreamView stream) {
  const char* op = "TopkRouteForward";
  CheckArgs(args);
  if (!IsFloat32(op, args.logits.dtype, stream)) return;
  const ForwardTokens tokens{.logits = Elements<float>(args.logits),
                             .bias = Elements<float>(args.bias),
                             .scores = Elements<float>(args.scores),
                             .experts = Elements<int32_t>(args.experts),
                             .weights = Elements<float>(args.weights),
                             .num_tokens = args.logits.shape[0],
                             .num_experts = static_cast<int>(args.logits.shape[1]),
                             .options = args.options};
  if (tokens.num_tokens == 0) return;
  const LaunchShape shape = TokenShape(tokens.num_tokens, tokens.num_experts, 3);
  if (shape.blocks == 0) {
    return FailUnimplemented(op, std::to_string(tokens.num_experts) + " experts", stream);
  }
  Launch(op, stream, ForwardKernel, shape, tokens);
}

}  // namespace muster::kernels::cuda
