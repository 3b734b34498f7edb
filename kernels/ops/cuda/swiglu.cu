// SwiGLU. A block takes a row; rows beyond the count in use, which only the device knows, cost a
// block that ends at once. Forward moves 3 numbers an output element, backward 5.
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/swiglu.h"

namespace muster::kernels::cuda {
namespace {

template <typename T>
struct ForwardRows {
  const T* gate_up;
  const float* row_weight;
  const int64_t* row_count;
  T* out;
  int64_t num_rows, size;
};

template <typename T, int kWidth>
__global__ void ForwardKernel(ForwardRows<T> rows) {
  const int64_t row = blockIdx.x;
  if (row >= RowsInUse(rows.row_count, rows.num_rows)) return;
  const float row_weight = rows.row_weight != nullptr ? rows.row_weight[row] : 1.0f;
  const T* gate = rows.gate_up + row * 2 * rows.size;
  T* out = rows.out + row * rows.size;
#pragma unroll 2
  for (int64_t f = threadIdx.x * kWidth; f < rows.size; f += blockDim.x * kWidth) {
    float z[kWidth], up[kWidth];
    LoadFloats(gate + f, z);
    LoadFloats(gate + rows.size + f, up);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) up[i] *= z[i] * FastSigmoid(z[i]) * row_weight;
    StoreFloats(out + f, up);
  }
}

template <typename T>
struct BackwardRows {
  const T *d_out, *gate_up;
  const float* row_weight;
  const int64_t* row_count;
  T* d_gate_up;
  float* d_row_weight;
  int64_t num_rows, size;
};

//   silu'(z) = s (1 + z (1 - s)),   s = sigmoid(z)
template <typename T, int kWidth>
__global__ void BackwardKernel(BackwardRows<T> rows) {
  const int64_t row = blockIdx.x;
  if (row >= RowsInUse(rows.row_count, rows.num_rows)) return;
  const float row_weight = rows.row_weight != nullptr ? rows.row_weight[row] : 1.0f;
  const T* d_out = rows.d_out + row * rows.size;
  const T* gate = rows.gate_up + row * 2 * rows.size;
  T* d_gate = rows.d_gate_up + row * 2 * rows.size;
  float d_row_weight = 0;
  for (int64_t f = threadIdx.x * kWidth; f < rows.size; f += blockDim.x * kWidth) {
    float z[kWidth], up[kWidth], d[kWidth];
    LoadFloats(gate + f, z);
    LoadFloats(gate + rows.size + f, up);
    LoadFloats(d_out + f, d);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float s = FastSigmoid(z[i]), silu = z[i] * s, u = up[i];
      d_row_weight += d[i] * silu * u;
      const float weighted = d[i] * row_weight;
      up[i] = weighted * silu;
      z[i] = weighted * u * s * (1.0f + z[i] * (1.0f - s));
    }
    StoreFloats(d_gate + f, z);
    StoreFloats(d_gate + rows.size + f, up);
  }
  if (rows.d_row_weight == nullptr) return;
  d_row_weight = RowSum(d_row_weight);
  if (threadIdx.x == 0) rows.d_row_weight[row] = d_row_weight;
}

}  // namespace

void SwiGluForward(const SwiGluForwardArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("SwiGluForward", args.out.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const ForwardRows<T> rows{.gate_up = Elements<T>(args.gate_up),
                              .row_weight = Elements<float>(args.row_weight),
                              .row_count = Elements<int64_t>(args.row_count),
                              .out = Elements<T>(args.out),
                              .num_rows = args.out.shape[0],
                              .size = args.out.shape[1]};
    const int64_t row_bytes = rows.size * static_cast<int64_t>(sizeof(T));
    SwitchWidth<T>(CanVectorize(row_bytes, {rows.gate_up, rows.out}), [&](auto width) {
      Launch("SwiGluForward", stream, ForwardKernel<T, width()>,
             RowLoopShape(rows.num_rows, rows.size / width()), rows);
    });
  });
}

void SwiGluBackward(const SwiGluBackwardArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("SwiGluBackward", args.d_out.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const BackwardRows<T> rows{
        .d_out = Elements<T>(args.d_out),
        .gate_up = Elements<T>(args.gate_up),
        .row_weight = Elements<float>(args.row_weight),
        .row_count = Elements<int64_t>(args.row_count),
        .d_gate_up = Elements<T>(args.d_gate_up),
        .d_row_weight = args.row_weight ? Elements<float>(args.d_row_weight) : nullptr,
        .num_rows = args.d_out.shape[0],
        .size = args.d_out.shape[1]};
    const int64_t row_bytes = rows.size * static_cast<int64_t>(sizeof(T));
    const bool vectorize = CanVectorize(row_bytes, {rows.d_out, rows.gate_up, rows.d_gate_up});
    SwitchWidth<T>(vectorize, [&](auto width) {
      Launch("SwiGluBackward", stream, BackwardKernel<T, width()>,
             RowLoopShape(rows.num_rows, rows.size / width()), rows);
    });
  });
}

}  // namespace muster::kernels::cuda
