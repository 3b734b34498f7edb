// Tiles of 32 x 32 results by 256 threads, four results each, over 32 of the reduction at a time in
// shared memory. Each block finds its rows from the offsets on the device.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "kernels/base/error.h"
#include "kernels/ops/cuda/grouped_matmul_plain.h"

namespace muster::kernels::cuda {
namespace {

constexpr int kTile = 32, kThreadRows = 8;  // a thread's results are kThreadRows rows apart

__device__ float ToFloat(float value) { return value; }
__device__ float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ void Put(float* out, float value) { *out = value; }
__device__ void Put(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }

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

__device__ int64_t Clamp(int64_t value, int64_t limit) {
  return value < 0 ? 0 : value > limit ? limit : value;
}

struct Group {
  int64_t begin, end;
};
__device__ Group GroupOf(const int64_t* offsets, int64_t expert, int64_t num_rows) {
  return {Clamp(offsets[expert], num_rows), Clamp(offsets[expert + 1], num_rows)};
}

// in [R, K], out [R, N], w [E, .., ..] with element (k, n) of an expert at the strides.
template <typename T>
struct RowsArgs {
  const T *in, *w;
  T* out;
  const int64_t* offsets;
  int64_t num_rows, n, k, w_k_stride, w_n_stride;
};

// blockIdx: column tile, expert. A block walks all rows of its expert.
template <typename T>
__global__ void RowsKernel(RowsArgs<T> args) {
  const int64_t expert = blockIdx.y, column = int64_t{blockIdx.x} * kTile;
  const Group group = GroupOf(args.offsets, expert, args.num_rows);
  const Matrix<T> b = {args.w + expert * args.n * args.k, args.w_k_stride, args.w_n_stride, args.k,
                       args.n};
  for (int64_t row = group.begin; row < group.end; row += kTile) {
    const Matrix<T> a = {args.in + row * args.k, args.k, 1, group.end - row, args.k};
    float sums[kTile / kThreadRows] = {};
    Multiply(a, b, 0, column, sums);
    for (int i = 0; i < kTile / kThreadRows; ++i) {
      const int64_t r = row + threadIdx.y + i * kThreadRows, c = column + threadIdx.x;
      if (r < group.end && c < args.n) Put(args.out + r * args.n + c, sums[i]);
    }
  }
}

template <typename T>
struct WeightArgs {
  const T *d_y, *x;
  float* d_w;
  const int64_t* offsets;
  int64_t num_rows, n, k;
};

// blockIdx: column tile, row tile, expert.
template <typename T>
__global__ void WeightKernel(WeightArgs<T> args) {
  const int64_t expert = blockIdx.z;
  const int64_t row = int64_t{blockIdx.y} * kTile, column = int64_t{blockIdx.x} * kTile;
  const Group group = GroupOf(args.offsets, expert, args.num_rows);
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

template <typename Args>
absl::Status Launch(void (*kernel)(Args), dim3 blocks, const Args& args, StreamView stream) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return absl::OkStatus();
  kernel<<<blocks, dim3(kTile, kThreadRows), 0,
           static_cast<cudaStream_t>(stream.native_handle())>>>(args);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(std::string("launching a plain grouped matmul: ") +
                             cudaGetErrorString(error));
}

unsigned Tiles(int64_t size) { return static_cast<unsigned>((size + kTile - 1) / kTile); }

template <typename T>
absl::Status LaunchRows(const TensorView& in, const TensorView& w, const TensorView& out,
                        const TensorView& offsets, bool w_is_nk, StreamView stream) {
  const int64_t n = out.shape[1], k = in.shape[1];
  const RowsArgs<T> args = {.in = static_cast<const T*>(in.data),
                            .w = static_cast<const T*>(w.data),
                            .out = static_cast<T*>(out.data),
                            .offsets = offsets.as<int64_t>(),
                            .num_rows = in.shape[0],
                            .n = n,
                            .k = k,
                            .w_k_stride = w_is_nk ? 1 : n,
                            .w_n_stride = w_is_nk ? k : 1};
  return Launch(&RowsKernel<T>, dim3(Tiles(n), static_cast<unsigned>(w.shape[0])), args, stream);
}

template <typename T>
absl::Status LaunchWeight(const GroupedMatmulBackwardWeightArgs& args, StreamView stream) {
  const int64_t n = args.d_w.shape[1], k = args.d_w.shape[2];
  const WeightArgs<T> weight = {.d_y = static_cast<const T*>(args.d_y.data),
                                .x = static_cast<const T*>(args.x.data),
                                .d_w = args.d_w.as<float>(),
                                .offsets = args.offsets.as<int64_t>(),
                                .num_rows = args.x.shape[0],
                                .n = n,
                                .k = k};
  return Launch(&WeightKernel<T>,
                dim3(Tiles(k), Tiles(n), static_cast<unsigned>(args.d_w.shape[0])), weight, stream);
}

}  // namespace

absl::Status PlainGroupedForward(const GroupedMatmulForwardArgs& args, StreamView stream) {
  return args.x.dtype == DType::kFloat32
             ? LaunchRows<float>(args.x, args.w, args.y, args.offsets, true, stream)
             : LaunchRows<__nv_bfloat16>(args.x, args.w, args.y, args.offsets, true, stream);
}

absl::Status PlainGroupedBackwardInput(const GroupedMatmulBackwardInputArgs& args,
                                       StreamView stream) {
  return args.d_y.dtype == DType::kFloat32
             ? LaunchRows<float>(args.d_y, args.w, args.d_x, args.offsets, false, stream)
             : LaunchRows<__nv_bfloat16>(args.d_y, args.w, args.d_x, args.offsets, false, stream);
}

absl::Status PlainGroupedBackwardWeight(const GroupedMatmulBackwardWeightArgs& args,
                                        StreamView stream) {
  return args.x.dtype == DType::kFloat32 ? LaunchWeight<float>(args, stream)
                                         : LaunchWeight<__nv_bfloat16>(args, stream);
}

}  // namespace muster::kernels::cuda
