// A warp owns one row: of queries in the forward and for d_q, of keys for d_k and d_v. It walks the
// rows of the other side 32 at a time: each lane makes the score of one of them, then all lanes
// together add the 32 rows to the warp's sum, each lane holding every 32nd channel. Softmax with a
// running maximum and sum (Milakov & Gimelshein, 2018); probabilities again from the log-sum-exp in
// the backward (Dao et al., 2022). Reads S rows per row, mostly from the caches: bound by them.
#include "kernels/ops/attention_support.h"
#include "kernels/ops/cuda/attention_direct.h"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSlots = kMaxAttentionHeadSize / kWarp;  // channels a lane may hold

// Rows of [B, S, heads, C].
template <typename T>
struct Rows {
  T* data;
  int64_t batch_stride, token_stride;
  __device__ T* At(int64_t batch, int64_t token, int64_t head, int channels) const {
    return data + batch * batch_stride + token * token_stride + head * channels;
  }
};

struct Sizes {
  int64_t batch, num_queries, num_keys;
  int heads, kv_heads;
  int channels, value_channels;  // of q and k; of v and out
  bool causal;
  int64_t offset;  // query i sees keys up to i + offset
  float scale;

  __device__ int64_t KeysEnd(int64_t query) const {
    if (!causal) return num_keys;
    const int64_t end = query + offset + 1;
    return end < 0 ? 0 : end < num_keys ? end : num_keys;
  }
  __device__ int64_t QueriesBegin(int64_t key) const {
    return !causal || key < offset ? 0 : key - offset;
  }
};

template <typename T>
struct ForwardTensors {
  Rows<const T> q, k, v;
  Rows<T> out;
  float* lse;
};
template <typename T>
struct BackwardTensors {
  Rows<const T> q, k, v, out, d_out;
  Rows<T> d_q, d_k, d_v;
  const float* lse;
  float* delta;
};

// row (fp32, in shared memory) times a row of the other side.
template <typename T>
__device__ float Dot(const float* row, const T* other, int channels) {
  float sum = 0;
  for (int c = 0; c < channels; ++c) sum = fmaf(row[c], ToFloat(other[c]), sum);
  return sum;
}

template <typename T>
__device__ void LoadRow(const T* row, float* shared, int channels, int lane) {
  for (int c = lane; c < channels; c += kWarp) shared[c] = ToFloat(row[c]);
}

// sum += weight * row: the lane's channels.
template <typename T>
__device__ void AddRow(float (&sum)[kSlots], float weight, const T* row, int channels, int lane) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int c = slot * kWarp + lane;
    if (c < channels) sum[slot] = fmaf(weight, ToFloat(row[c]), sum[slot]);
  }
}
template <typename T>
__device__ void StoreRow(const float (&sum)[kSlots], float factor, T* row, int channels, int lane) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int c = slot * kWarp + lane;
    if (c < channels) row[c] = FromFloat<T>(sum[slot] * factor);
  }
}

// The row of this warp in [B, heads, tokens], and its batch, head and token.
struct Place {
  int64_t row, batch, token;
  int head;
};
__device__ Place PlaceOfWarp(int64_t num_tokens, int heads) {
  const int64_t row = int64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  return {.row = row,
          .batch = row / num_tokens / heads,
          .token = row % num_tokens,
          .head = static_cast<int>(row / num_tokens % heads)};
}

template <typename T>
__global__ void ForwardKernel(ForwardTensors<T> x, Sizes sizes) {
  __shared__ float rows[kWarpsPerBlock][kMaxAttentionHeadSize];
  const Place at = PlaceOfWarp(sizes.num_queries, sizes.heads);
  if (at.row >= sizes.batch * sizes.heads * sizes.num_queries) return;
  const int lane = threadIdx.x % kWarp;
  const int channels = sizes.channels, value_channels = sizes.value_channels;
  const int64_t kv_head = at.head / (sizes.heads / sizes.kv_heads);
  float* q = rows[threadIdx.x / kWarp];
  LoadRow(x.q.At(at.batch, at.token, at.head, channels), q, channels, lane);
  __syncwarp();
  float max = -INFINITY, sum = 0, out[kSlots] = {};
  const int64_t keys_end = sizes.KeysEnd(at.token);
  for (int64_t begin = 0; begin < keys_end; begin += kWarp) {
    const int64_t key = begin + lane;
    float score = -INFINITY;
    if (key < keys_end) {
      score = sizes.scale * Dot(q, x.k.At(at.batch, key, kv_head, channels), channels);
    }
    const float new_max = fmaxf(max, WarpMax(score));
    const float factor = expf(max - new_max), p = expf(score - new_max);
    sum = sum * factor + WarpSum(p);
    max = new_max;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) out[slot] *= factor;
    const int count = static_cast<int>(keys_end - begin < kWarp ? keys_end - begin : kWarp);
    for (int j = 0; j < count; ++j) {
      AddRow(out, __shfl_sync(kAllLanes, p, j),
             x.v.At(at.batch, begin + j, kv_head, value_channels), value_channels, lane);
    }
  }
  StoreRow(out, sum == 0 ? 0.0f : 1 / sum, x.out.At(at.batch, at.token, at.head, value_channels),
           value_channels, lane);
  if (lane == 0) x.lse[at.row] = max + logf(sum);  // -infinity for a row that sees no key
}

// d_q, and delta = sum_c d_out out for the keys' kernel.
template <typename T>
__global__ void QueryGradientKernel(BackwardTensors<T> x, Sizes sizes) {
  __shared__ float rows[kWarpsPerBlock][2][kMaxAttentionHeadSize];
  const Place at = PlaceOfWarp(sizes.num_queries, sizes.heads);
  if (at.row >= sizes.batch * sizes.heads * sizes.num_queries) return;
  const int lane = threadIdx.x % kWarp;
  const int channels = sizes.channels, value_channels = sizes.value_channels;
  const int64_t kv_head = at.head / (sizes.heads / sizes.kv_heads);
  float* q = rows[threadIdx.x / kWarp][0];
  float* d_out = rows[threadIdx.x / kWarp][1];
  LoadRow(x.q.At(at.batch, at.token, at.head, channels), q, channels, lane);
  LoadRow(x.d_out.At(at.batch, at.token, at.head, value_channels), d_out, value_channels, lane);
  __syncwarp();
  const T* out = x.out.At(at.batch, at.token, at.head, value_channels);
  float delta = 0;
  for (int c = lane; c < value_channels; c += kWarp) {
    delta = fmaf(d_out[c], ToFloat(out[c]), delta);
  }
  delta = WarpSum(delta);
  if (lane == 0) x.delta[at.row] = delta;

  const float lse = x.lse[at.row];
  float d_q[kSlots] = {};
  const int64_t keys_end = sizes.KeysEnd(at.token);
  for (int64_t begin = 0; begin < keys_end; begin += kWarp) {
    const int64_t key = begin + lane;
    float d_s = 0;
    if (key < keys_end) {
      const T* k = x.k.At(at.batch, key, kv_head, channels);
      const T* v = x.v.At(at.batch, key, kv_head, value_channels);
      const float p = expf(sizes.scale * Dot(q, k, channels) - lse);
      d_s = sizes.scale * p * (Dot(d_out, v, value_channels) - delta);
    }
    const int count = static_cast<int>(keys_end - begin < kWarp ? keys_end - begin : kWarp);
    for (int j = 0; j < count; ++j) {
      AddRow(d_q, __shfl_sync(kAllLanes, d_s, j), x.k.At(at.batch, begin + j, kv_head, channels),
             channels, lane);
    }
  }
  StoreRow(d_q, 1, x.d_q.At(at.batch, at.token, at.head, channels), channels, lane);
}

// d_k and d_v of one key, over the queries of its group of heads in fixed order.
template <typename T>
__global__ void KeyGradientKernel(BackwardTensors<T> x, Sizes sizes) {
  __shared__ float rows[kWarpsPerBlock][2][kMaxAttentionHeadSize];
  const Place at = PlaceOfWarp(sizes.num_keys, sizes.kv_heads);
  if (at.row >= sizes.batch * sizes.kv_heads * sizes.num_keys) return;
  const int lane = threadIdx.x % kWarp;
  const int channels = sizes.channels, value_channels = sizes.value_channels;
  const int group = sizes.heads / sizes.kv_heads;
  float* k = rows[threadIdx.x / kWarp][0];
  float* v = rows[threadIdx.x / kWarp][1];
  LoadRow(x.k.At(at.batch, at.token, at.head, channels), k, channels, lane);
  LoadRow(x.v.At(at.batch, at.token, at.head, value_channels), v, value_channels, lane);
  __syncwarp();
  float d_k[kSlots] = {}, d_v[kSlots] = {};
  const int64_t first = sizes.QueriesBegin(at.token);
  for (int head = at.head * group; head < (at.head + 1) * group; ++head) {
    const int64_t lse_row = (at.batch * sizes.heads + head) * sizes.num_queries;
    for (int64_t begin = first; begin < sizes.num_queries; begin += kWarp) {
      const int64_t query = begin + lane;
      float p = 0, d_s = 0;
      if (query < sizes.num_queries) {
        const T* q = x.q.At(at.batch, query, head, channels);
        const T* d_out = x.d_out.At(at.batch, query, head, value_channels);
        p = expf(sizes.scale * Dot(k, q, channels) - x.lse[lse_row + query]);
        d_s = sizes.scale * p * (Dot(v, d_out, value_channels) - x.delta[lse_row + query]);
      }
      const int64_t left = sizes.num_queries - begin;
      const int count = static_cast<int>(left < kWarp ? left : kWarp);
      for (int i = 0; i < count; ++i) {
        AddRow(d_v, __shfl_sync(kAllLanes, p, i),
               x.d_out.At(at.batch, begin + i, head, value_channels), value_channels, lane);
        AddRow(d_k, __shfl_sync(kAllLanes, d_s, i), x.q.At(at.batch, begin + i, head, channels),
               channels, lane);
      }
    }
  }
  StoreRow(d_k, 1, x.d_k.At(at.batch, at.token, at.head, channels), channels, lane);
  StoreRow(d_v, 1, x.d_v.At(at.batch, at.token, at.head, value_channels), value_channels, lane);
}

template <typename T>
Rows<T> RowsOf(const TensorView& x) {
  return {static_cast<T*>(x.data), x.strides[0], x.strides[1]};
}

template <typename Args>
Sizes SizesOf(const Args& args) {
  return {.batch = args.q.shape[0],
          .num_queries = args.q.shape[1],
          .num_keys = args.k.shape[1],
          .heads = static_cast<int>(args.q.shape[2]),
          .kv_heads = static_cast<int>(args.k.shape[2]),
          .channels = static_cast<int>(args.q.shape[3]),
          .value_channels = static_cast<int>(args.v.shape[3]),
          .causal = args.causal,
          .offset = args.q_begin - args.k_begin,
          .scale = args.scale};
}

// One warp for each of `rows`.
LaunchShape ShapeOf(int64_t rows) {
  return {.blocks = CeilDiv(rows, kWarpsPerBlock), .threads_x = kWarpsPerBlock * kWarp};
}

bool HeadFits(const char* op, const Sizes& sizes, StreamView stream) {
  const std::string problem = HeadSizeProblem(AttentionKernel::kDirect, DType::kFloat32,
                                              sizes.channels, sizes.value_channels);
  if (problem.empty()) return true;
  FailUnimplemented(op,
                    "heads of " + std::to_string(sizes.channels) + " and " +
                        std::to_string(sizes.value_channels) + " channels: " + problem,
                    stream);
  return false;
}

template <typename T>
void Forward(const char* op, const AttentionForwardArgs& args, StreamView stream) {
  const Sizes sizes = SizesOf(args);
  if (!HeadFits(op, sizes, stream)) return;
  const ForwardTensors<T> tensors = {.q = RowsOf<const T>(args.q),
                                     .k = RowsOf<const T>(args.k),
                                     .v = RowsOf<const T>(args.v),
                                     .out = RowsOf<T>(args.out),
                                     .lse = args.lse.as<float>()};
  Launch(op, stream, &ForwardKernel<T>, ShapeOf(sizes.batch * sizes.heads * sizes.num_queries),
         tensors, sizes);
}

template <typename T>
void Backward(const char* op, const AttentionBackwardArgs& args, StreamView stream) {
  const Sizes sizes = SizesOf(args);
  if (!HeadFits(op, sizes, stream)) return;
  const BackwardTensors<T> tensors = {.q = RowsOf<const T>(args.q),
                                      .k = RowsOf<const T>(args.k),
                                      .v = RowsOf<const T>(args.v),
                                      .out = RowsOf<const T>(args.out),
                                      .d_out = RowsOf<const T>(args.d_out),
                                      .d_q = RowsOf<T>(args.d_q),
                                      .d_k = RowsOf<T>(args.d_k),
                                      .d_v = RowsOf<T>(args.d_v),
                                      .lse = args.lse.as<float>(),
                                      .delta = args.delta.as<float>()};
  Launch(op, stream, &QueryGradientKernel<T>,
         ShapeOf(sizes.batch * sizes.heads * sizes.num_queries), tensors, sizes);
  Launch(op, stream, &KeyGradientKernel<T>, ShapeOf(sizes.batch * sizes.kv_heads * sizes.num_keys),
         tensors, sizes);
}

}  // namespace

void DirectAttentionForward(const AttentionForwardArgs& args, StreamView stream) {
  constexpr const char* kOp = "AttentionForward";
  SwitchStorage(kOp, args.q.dtype, stream,
                [&](auto tag) { Forward<decltype(tag)>(kOp, args, stream); });
}

void DirectAttentionBackward(const AttentionBackwardArgs& args, StreamView stream) {
  constexpr const char* kOp = "AttentionBackward";
  SwitchStorage(kOp, args.q.dtype, stream,
                [&](auto tag) { Backward<decltype(tag)>(kOp, args, stream); });
}

}  // namespace muster::kernels::cuda
