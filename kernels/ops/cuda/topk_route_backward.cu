// The router's gradient: reads logits and scores once and writes the gradient. The losses are
// summed by warp, block, and then by one block over all, so they depend on the shape alone.
#include "kernels/ops/cuda/topk_tokens.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr int kLossBlocks = 1024;

struct BackwardTokens {
  const float *logits, *scores;
  const int32_t* experts;
  const float *d_weights, *load;  // load: [E], or of each group
  const int32_t* group_counts;    // [T / |G|, E] if the loss uses the groups' own counts
  float* d_logits;
  double* of_block;  // [blocks, 2]: auxiliary loss, z-loss
  int64_t num_tokens, group_tokens, first_token;
  int num_experts;
  bool load_of_groups;
  double auxiliary, z;  // coefficients, with loss_scale and what belongs to them
  RouterOptions options;

  // Tokens of expert e per token of token t's group: over the experts they sum to k.
  __device__ float Fraction(int64_t t, int e) const {
    if (load != nullptr) {
      return load[(load_of_groups ? (first_token + t) / group_tokens * num_experts : 0) + e];
    }
    const int32_t count = group_counts[t / group_tokens * num_experts + e];
    return static_cast<float>(count) / static_cast<float>(group_tokens);
  }
};

// group_counts[g, e] += choices.
struct CountGroups {
  const int32_t* experts;
  int32_t* counts;
  int64_t group_choices;
  int num_experts;

  template <int kWidth>
  __device__ void Run(int64_t choice) const {
    atomicAdd(&counts[choice / group_choices * num_experts + experts[choice]], 1);
  }
};

struct ScaleCounts {
  const int32_t* counts;
  float* out;
  float scale;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    out[at] = static_cast<float>(counts[at]) * scale;
  }
};

// aux = c sum_e f_e p_e with p = s / sum s (a softmax sums to 1 already):
//   ds_e = c (f_e - sum_i f_i p_i) / sum s,   for a softmax ds_e = c f_e.
// Writes ds and returns the loss.
__device__ double Auxiliary(const BackwardTokens& tokens, int64_t t, const float* scores,
                            float* gradient) {
  const bool normalised = tokens.options.score == RouterScore::kSoftmax;
  float sum = 1, mean = 0;
  if (!normalised) {
    sum = 0;
    for (int e = threadIdx.x; e < tokens.num_experts; e += kWarp) sum += scores[e];
    sum = WarpSum(sum) + kTiny;
  }
  for (int e = threadIdx.x; e < tokens.num_experts; e += kWarp) {
    gradient[e] = tokens.Fraction(t, e);
    mean += gradient[e] * (scores[e] / sum);
  }
  mean = WarpSum(mean);
  const float factor = static_cast<float>(tokens.auxiliary) / sum;
  const float shift = normalised ? 0.0f : mean;
  for (int e = threadIdx.x; e < tokens.num_experts; e += kWarp) {
    gradient[e] = factor * (gradient[e] - shift);
  }
  return tokens.auxiliary * static_cast<double>(mean);
}

// Adds the gradient of the combine weights w_j = scale s_j / S:
//   normalised: ds_j = scale / S (dw_j - sum_i dw_i s_i / S);   else: ds_j = scale dw_j.
__device__ void AddWeightGradient(const BackwardTokens& tokens, int64_t t, const float* scores,
                                  float* gradient) {
  const RouterOptions& options = tokens.options;
  const int32_t* experts = tokens.experts + t * options.top_k;
  const float* d_weights = tokens.d_weights + t * options.top_k;
  const float divisor = Divisor(options, scores, experts);
  float mean = 0;
  if (options.normalise) {
    for (int j = 0; j < options.top_k; ++j) mean += d_weights[j] * (scores[experts[j]] / divisor);
  }
  const float factor = options.scale / divisor;
  for (int j = threadIdx.x; j < options.top_k; j += kWarp) {
    gradient[experts[j]] += factor * (d_weights[j] - mean);
  }
}

// From the gradient of the scores to that of the logits, in place.
__device__ void ToLogits(RouterScore score, const float* scores, float* gradient, int num_experts) {
  float mean = 0;
  if (score == RouterScore::kSoftmax) {
    for (int e = threadIdx.x; e < num_experts; e += kWarp) mean += gradient[e] * scores[e];
    mean = WarpSum(mean);
  }
  for (int e = threadIdx.x; e < num_experts; e += kWarp) {
    gradient[e] = score == RouterScore::kSigmoid ? gradient[e] * (scores[e] * (1.0f - scores[e]))
                                                 : scores[e] * (gradient[e] - mean);
  }
}

// d lse^2 = 2 lse softmax(logits). Returns the loss.
__device__ double AddZ(const BackwardTokens& tokens, const float* logits, float* exponentials,
                       float* gradient) {
  float sum = 0, max = 0;
  Exponentials(logits, exponentials, tokens.num_experts, sum, max);
  const float lse = max + logf(sum);
  const float factor = static_cast<float>(2 * tokens.z) * lse;
  for (int e = threadIdx.x; e < tokens.num_experts; e += kWarp) {
    gradient[e] += factor * (exponentials[e] / sum);
  }
  return tokens.z * static_cast<double>(lse) * static_cast<double>(lse);
}

__global__ void BackwardKernel(BackwardTokens tokens) {
  extern __shared__ float shared[];
  const int num_experts = tokens.num_experts;
  float* gradient = shared + threadIdx.y * 2 * num_experts;
  float* exponentials = gradient + num_experts;
  double auxiliary = 0, z = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t t = RowOfThread(); t < tokens.num_tokens; t += stride) {
    const float* scores = tokens.scores + t * num_experts;
    if (tokens.auxiliary != 0) {
      auxiliary += Auxiliary(tokens, t, scores, gradient);
    } else {
      for (int e = threadIdx.x; e < num_experts; e += kWarp) gradient[e] = 0;
    }
    __syncwarp();
    AddWeightGradient(tokens, t, scores, gradient);
    __syncwarp();
    ToLogits(tokens.options.score, scores, gradient, num_experts);
    if (tokens.z != 0) z += AddZ(tokens, tokens.logits + t * num_experts, exponentials, gradient);
    for (int e = threadIdx.x; e < num_experts; e += kWarp) {
      tokens.d_logits[t * num_experts + e] = gradient[e];
    }
    __syncwarp();
  }
  __shared__ double of_warp[kMaxTokenWarps][2];
  if (threadIdx.x == 0) {
    of_warp[threadIdx.y][0] = auxiliary;
    of_warp[threadIdx.y][1] = z;
  }
  __syncthreads();
  if (threadIdx.y != 0 || threadIdx.x >= 2) return;
  double sum = 0;
  for (int warp = 0; warp < blockDim.y; ++warp) sum += of_warp[warp][threadIdx.x];
  tokens.of_block[2 * blockIdx.x + threadIdx.x] = sum;
}

// losses += sums over blocks; one block of kLossBlocks threads.
__global__ void AddLossesKernel(const double* of_block, int num_blocks, double* losses) {
  const int i = threadIdx.x;
  for (int loss = 0; loss < 2; ++loss) {
    const double sum = RowSum(i < num_blocks ? of_block[2 * i + loss] : 0.0);
    if (i == 0) losses[loss] += sum;
  }
}

}  // namespace

void TopkRouteBackward(const TopkRouteBackwardArgs& args, StreamView stream) {
  const char* op = "TopkRouteBackward";
  CheckArgs(args);
  if (!IsFloat32(op, args.logits.dtype, stream)) return;
  const RouterOptions& options = args.options;
  const int64_t num_tokens = args.logits.shape[0], num_experts = args.logits.shape[1];
  if (num_tokens == 0) return;
  LaunchShape shape = TokenShape(num_tokens, num_experts, 2);
  if (shape.blocks == 0) {
    return FailUnimplemented(op, std::to_string(num_experts) + " experts", stream);
  }
  shape.blocks = std::min<int64_t>(shape.blocks, kLossBlocks);
  const bool own_counts = options.aux_coefficient != 0 && !args.load;
  const int64_t counts = own_counts ? num_tokens / args.group_tokens * num_experts : 0;
  Scratch scratch(stream);
  double* of_block = scratch.Take<double>(2 * shape.blocks);
  int32_t* group_counts = scratch.Take<int32_t>(counts);
  if (!scratch.Fits(op, stream)) return;
  const int32_t* experts = Elements<int32_t>(args.experts);
  if (own_counts) {
    FillZeroAsync(group_counts, counts * static_cast<int64_t>(sizeof(int32_t)), stream);
    const CountGroups count{experts, group_counts, args.group_tokens * options.top_k,
                            static_cast<int>(num_experts)};
    RunFlat<1>(op, args.experts.num_elements(), {}, count, stream);
  }
  const BackwardTokens tokens{.logits = Elements<float>(args.logits),
                              .scores = Elements<float>(args.scores),
                              .experts = experts,
                              .d_weights = Elements<float>(args.d_weights),
                              .load = Elements<float>(args.load),
                              .group_counts = group_counts,
                              .d_logits = Elements<float>(args.d_logits),
                              .of_block = of_block,
                              .num_tokens = num_tokens,
                              .group_tokens = args.group_tokens,
                              .first_token = args.first_token,
                              .num_experts = static_cast<int>(num_experts),
                              .load_of_groups = args.load && args.load.rank() == 2,
                              .auxiliary = args.loss_scale * double{options.aux_coefficient} *
                                           static_cast<double>(num_experts) / options.top_k,
                              .z = args.loss_scale * double{options.z_coefficient},
                              .options = options};
  Launch(op, stream, BackwardKernel, shape, tokens);
  Launch(op, stream, AddLossesKernel, LaunchShape{.blocks = 1, .threads_x = kLossBlocks}, of_block,
         static_cast<int>(shape.blocks), Elements<double>(args.losses));
}

void GroupLoad(const GroupLoadArgs& args, StreamView stream) {
  const char* op = "GroupLoad";
  CheckArgs(args);
  if (!IsFloat32(op, args.out.dtype, stream)) return;
  const int64_t size = args.out.num_elements();
  Scratch scratch(stream);
  int32_t* counts = scratch.Take<int32_t>(size);
  if (!scratch.Fits(op, stream)) return;
  FillZeroAsync(counts, size * static_cast<int64_t>(sizeof(int32_t)), stream);
  const CountGroups count{Elements<int32_t>(args.experts), counts,
                          args.group_tokens * args.experts.shape[1],
                          static_cast<int>(args.out.shape[1])};
  RunFlat<1>(op, args.experts.num_elements(), {}, count, stream);
  const ScaleCounts scale{counts, Elements<float>(args.out), static_cast<float>(args.scale)};
  RunFlat<1>(op, size, {}, scale, stream);
}

}  // namespace muster::kernels::cuda
