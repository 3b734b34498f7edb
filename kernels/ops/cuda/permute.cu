// Moving rows between token order and expert order: a warp takes a row, in 16-byte accesses where
// alignment allows. Each row is read once and written once (DispatchRows reads a token once for all
// its choices). kernels/ops/cuda/sort_by_expert.cu makes the order.
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/permute.h"

namespace muster::kernels::cuda {
namespace {

// The row a choice goes to, or -1 if it was dropped.
__device__ int64_t CheckedRow(int32_t row, int64_t num_rows) {
  MUSTER_DEVICE_CHECK(row >= -1 && row < num_rows, "row %d is outside the planned bound of %lld",
                      row, static_cast<long long>(num_rows));
  return row;
}

template <typename T>
struct DispatchTokens {
  const T* x;
  const int32_t* rows;
  T* out;
  int64_t num_tokens, top_k, dim, num_rows;
};

template <typename T, int kWidth>
__global__ void DispatchKernel(DispatchTokens<T> tokens) {
  const int64_t t = RowOfThread();
  if (t >= tokens.num_tokens) return;
  const T* from = tokens.x + t * tokens.dim;
  for (int64_t d = threadIdx.x * kWidth; d < tokens.dim; d += kWarp * kWidth) {
    const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(from + d);
    for (int64_t j = 0; j < tokens.top_k; ++j) {
      const int64_t row = CheckedRow(tokens.rows[t * tokens.top_k + j], tokens.num_rows);
      if (row < 0) continue;
      *reinterpret_cast<Pack<T, kWidth>*>(tokens.out + row * tokens.dim + d) = pack;
    }
  }
}

template <typename T, int kWidth>
__global__ void CombineKernel(DispatchTokens<T> tokens, bool accumulate) {
  const int64_t t = RowOfThread();
  if (t >= tokens.num_tokens) return;
  T* out = tokens.out + t * tokens.dim;
  for (int64_t d = threadIdx.x * kWidth; d < tokens.dim; d += kWarp * kWidth) {
    float sum[kWidth] = {};
#pragma unroll 4
    for (int64_t j = 0; j < tokens.top_k; ++j) {
      const int64_t row = CheckedRow(tokens.rows[t * tokens.top_k + j], tokens.num_rows);
      float values[kWidth] = {};
      if (row >= 0) LoadFloats(tokens.x + row * tokens.dim + d, values);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += values[i];
    }
    if (accumulate) {
      float before[kWidth];
      LoadFloats(out + d, before);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += before[i];
    }
    StoreFloats(out + d, sum);
  }
}

struct PermuteValues {
  float* by_choice;
  const int32_t* rows;
  float* by_row;
  int64_t num_rows;
  bool to_tokens;

  template <int kWidth>
  __device__ void Run(int64_t choice) const {
    const int64_t row = CheckedRow(rows[choice], num_rows);
    if (to_tokens) {
      by_choice[choice] = row < 0 ? 0.0f : by_row[row];
    } else if (row >= 0) {
      by_row[row] = by_choice[choice];
    }
  }
};

template <typename T>
struct GatherTensors {
  const T* x;
  const int32_t* index;
  const int64_t* row_count;
  T* out;
  int64_t bound, dim;
  bool inverse;
};

template <typename T, int kWidth>
__global__ void GatherKernel(GatherTensors<T> tensors) {
  const int64_t row = RowOfThread();
  if (row >= RowsInUse(tensors.row_count, tensors.bound)) return;
  const int64_t mapped = tensors.index[row];
  MUSTER_DEVICE_CHECK(mapped >= 0 && mapped < tensors.bound,
                      "GatherRows: index[%lld] = %lld is outside %lld rows",
                      static_cast<long long>(row), static_cast<long long>(mapped),
                      static_cast<long long>(tensors.bound));
  const T* from = tensors.x + (tensors.inverse ? mapped : row) * tensors.dim;
  T* to = tensors.out + (tensors.inverse ? row : mapped) * tensors.dim;
#pragma unroll 4
  for (int64_t d = threadIdx.x * kWidth; d < tensors.dim; d += kWarp * kWidth) {
    *reinterpret_cast<Pack<T, kWidth>*>(to + d) =
        *reinterpret_cast<const Pack<T, kWidth>*>(from + d);
  }
}

// A warp a rank.
__global__ void SumCountsKernel(const int64_t* counts, int64_t* sums, int64_t num_ranks,
                                int64_t num_experts) {
  const int64_t p = RowOfThread();
  if (p >= num_ranks) return;
  int64_t sum = 0;
  for (int64_t e = threadIdx.x; e < num_experts; e += kWarp) sum += counts[p * num_experts + e];
  sum = WarpSum(sum);
  if (threadIdx.x == 0) sums[p] = sum;
}

}  // namespace

void DispatchRows(const DispatchRowsArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("DispatchRows", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const DispatchTokens<T> tokens{Elements<T>(args.x),   Elements<int32_t>(args.rows),
                                   Elements<T>(args.out), args.x.shape[0],
                                   args.rows.shape[1],    args.x.shape[1],
                                   args.out.shape[0]};
    const int64_t row_bytes = tokens.dim * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {tokens.x, tokens.out}), [&](auto width) {
      Launch("DispatchRows", stream, DispatchKernel<T, width()>, WarpRowShape(tokens.num_tokens),
             tokens);
    });
  });
}

void CombineRows(const CombineRowsArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("CombineRows", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const DispatchTokens<T> tokens{Elements<T>(args.x),   Elements<int32_t>(args.rows),
                                   Elements<T>(args.out), args.rows.shape[0],
                                   args.rows.shape[1],    args.x.shape[1],
                                   args.x.shape[0]};
    const int64_t row_bytes = tokens.dim * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {tokens.x, tokens.out}), [&](auto width) {
      Launch("CombineRows", stream, CombineKernel<T, width()>, WarpRowShape(tokens.num_tokens),
             tokens, args.accumulate);
    });
  });
}

void PermuteWeights(const PermuteWeightsArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsFloat32("PermuteWeights", args.values_R.dtype, stream)) return;
  const PermuteValues permute{Elements<float>(args.values_Tk), Elements<int32_t>(args.rows),
                              Elements<float>(args.values_R), args.values_R.shape[0],
                              args.to_tokens};
  RunFlat<1>("PermuteWeights", args.rows.num_elements(), {}, permute, stream);
}

void SumCounts(const SumCountsArgs& args, StreamView stream) {
  CheckArgs(args);
  Launch("SumCounts", stream, SumCountsKernel, WarpRowShape(args.counts.shape[0]),
         Elements<int64_t>(args.counts), Elements<int64_t>(args.sums), args.counts.shape[0],
         args.counts.shape[1]);
}

void GatherRows(const GatherRowsArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("GatherRows", args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const GatherTensors<T> tensors{
        Elements<T>(args.x),   Elements<int32_t>(args.index), Elements<int64_t>(args.row_count),
        Elements<T>(args.out), args.index.shape[0],           args.x.shape[1],
        args.inverse};
    const int64_t row_bytes = tensors.dim * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {tensors.x, tensors.out}), [&](auto width) {
      Launch("GatherRows", stream, GatherKernel<T, width()>, WarpRowShape(tensors.bound), tensors);
    });
  });
}

}  // namespace muster::kernels::cuda
