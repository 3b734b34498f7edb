// Tiles of 32 x 32 results by 256 threads, four results each, over 32 of the reduction at a time in
// shared memory. Each block finds its rows from the offsets on the device.
#include "kernels/ops/cuda/group_rows.cuh"
#include "kernels/ops/cuda/grouped_matmul_plain.h"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr int kTile = 32, kThreadRows = 8;  // a thread's results are kThreadRows rows apart

// Element (row, column) at data[row * row_stride + column * column_stride]; outside is zero.
template <typename T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride, rows, columns;
  __device__ float At(int64_t row, int64_t column) const {
    return row < rows && column < columns ? ToFloat(data[row * row_stride + column * column_stride])
                                          : 0.0f;
  }
};

// sums of a [M, K] times b [K, N] at rows row + threadIdx.y + 8 i, column + threadIdx.x.
template <typename T>
__device__ void Multiply(const Matrix<T>& a, const Matrix<T>& b, int64_t row, int64_t column,
                         float (&sums)[kTile / kThreadRows]) {
  __shared__ float a_tile[kTile][kTile + 1], b_tile[kTile][kTile + 1];
  for (int64_t k = 0; k < a.columns; k += kTile) {
    for (int i = static_cast<int>(threadIdx.y); i < kTile; i += kThreadRows) {
      a_tile[i][threadIdx.x] = a.At(row + i, k + threadIdx.x);
      b_tile[i][threadIdx.x] = b.At(k + i, column + threadIdx.x);
    }
    __syncthreads();
    for (int p = 0; p < kTile; ++p) {
      for (int i = 0; i < kTile / kThreadRows; ++i) {
        sums[i] = fmaf(a_tile[threadIdx.y + i * kThreadRows][p], b_tile[p][threadIdx.x], sums[i]);
      }
    }
    __syncthreads();
  }
}

// in [R, K], out [R, N], w [E, .., ..] with element (k, n) of an expert at the strides.
template <typename T>
struct RowsArgs {
  const T *in, *w;
  T* out;
  const int64_t* offsets;
  int64_t num_rows, n, k, w_k_stride, w_n_stride;
};

// blockIdx.x: column tile, .y: expert. A block walks all rows of its expert.
template <typename T>
__global__ void RowsKernel(RowsArgs<T> args) {
  const int64_t expert = blockIdx.y, column = int64_t{blockIdx.x} * kTile;
  const GroupRows group = RowsOfExpert(args.offsets, expert, args.num_rows);
  const Matrix<T> b = {args.w + expert * args.n * args.k, args.w_k_stride, args.w_n_stride, args.k,
                       args.n};
  for (int64_t row = group.begin; row < group.end; row += kTile) {
    const Matrix<T> a = {args.in + row * args.k, args.k, 1, group.end - row, args.k};
    float sums[kTile / kThreadRows] = {};
    Multiply(a, b, 0, column, sums);
    for (int i = 0; i < kTile / kThreadRows; ++i) {
      const int64_t r = row + threadIdx.y + i * kThreadRows, c = column + threadIdx.x;
      if (r < group.end && c < args.n) args.out[r * args.n + c] = FromFloat<T>(sums[i]);
    }
  }
}

template <typename T>
struct WeightArgs {
  const T *d_y, *x;
  float* d_w;
  const int64_t* offsets;
  int64_t num_rows, n, k, column_tiles;
};

// blockIdx.x: row and column tile, .y: expert.
template <typename T>
__global__ void WeightKernel(WeightArgs<T> args) {
  const int64_t expert = blockIdx.y;
  const int64_t row = blockIdx.x / args.column_tiles * kTile;
  const int64_t column = blockIdx.x % args.column_tiles * kTile;
  const GroupRows group = RowsOfExpert(args.offsets, expert, args.num_rows);
  const int64_t count = group.end - group.begin;
  if (count <= 0) return;
  const Matrix<T> a = {args.d_y + group.begin * args.n, 1, args.n, args.n, count};
  const Matrix<T> b = {args.x + group.begin * args.k, args.k, 1, count, args.k};
  float sums[kTile / kThreadRows] = {};
  Multiply(a, b, row, column, sums);
  for (int i = 0; i < kTile / kThreadRows; ++i) {
    const int64_t r = row + threadIdx.y + i * kThreadRows, c = column + threadIdx.x;
    if (r < args.n && c < args.k) args.d_w[(expert * args.n + r) * args.k + c] += sums[i];
  }
}

// `blocks` of them for each expert.
LaunchShape ShapeOf(int64_t blocks, int64_t num_experts) {
  return {.blocks = blocks,
          .threads_x = kTile,
          .threads_y = kThreadRows,
          .blocks_y = static_cast<int>(num_experts)};
}

template <typename T>
void LaunchRows(const char* op, const TensorView& in, const TensorView& w, const TensorView& out,
                const TensorView& offsets, bool w_is_nk, StreamView stream) {
  const int64_t n = out.shape[1], k = in.shape[1];
  const RowsArgs<T> args = {.in = Elements<const T>(in),
                            .w = Elements<const T>(w),
                            .out = Elements<T>(out),
                            .offsets = offsets.as<int64_t>(),
                            .num_rows = in.shape[0],
                            .n = n,
                            .k = k,
                            .w_k_stride = w_is_nk ? 1 : n,
                            .w_n_stride = w_is_nk ? k : 1};
  Launch(op, stream, &RowsKernel<T>, ShapeOf(CeilDiv(n, kTile), w.shape[0]), args);
}

}  // namespace

void PlainGroupedForward(const GroupedMatmulForwardArgs& args, StreamView stream) {
  constexpr const char* kOp = "GroupedMatmulForward";
  SwitchStorage(kOp, args.x.dtype, stream, [&](auto tag) {
    LaunchRows<decltype(tag)>(kOp, args.x, args.w, args.y, args.offsets, true, stream);
  });
}

void PlainGroupedBackwardInput(const GroupedMatmulBackwardInputArgs& args, StreamView stream) {
  constexpr const char* kOp = "GroupedMatmulBackwardInput";
  SwitchStorage(kOp, args.d_y.dtype, stream, [&](auto tag) {
    LaunchRows<decltype(tag)>(kOp, args.d_y, args.w, args.d_x, args.offsets, false, stream);
  });
}

void PlainGroupedBackwardWeight(const GroupedMatmulBackwardWeightArgs& args, StreamView stream) {
  constexpr const char* kOp = "GroupedMatmulBackwardWeight";
  const int64_t n = args.d_w.shape[1], k = args.d_w.shape[2];
  SwitchStorage(kOp, args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const WeightArgs<T> weight = {.d_y = Elements<const T>(args.d_y),
                                  .x = Elements<const T>(args.x),
                                  .d_w = args.d_w.as<float>(),
                                  .offsets = args.offsets.as<int64_t>(),
                                  .num_rows = args.x.shape[0],
                                  .n = n,
                                  .k = k,
                                  .column_tiles = CeilDiv(k, kTile)};
    Launch(kOp, stream, &WeightKernel<T>,
           ShapeOf(CeilDiv(n, kTile) * weight.column_tiles, args.d_w.shape[0]), weight);
  });
}

}  // namespace muster::kernels::cuda
