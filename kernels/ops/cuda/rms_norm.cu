// RMSNorm. A row stays in registers between its sum and its result, so memory is read once: forward
// 4 numbers an element with a residual (2 without), input gradient 3 or 4, weight gradient 2.
#include "kernels/ops/cuda/column_sum.cuh"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/row_switch.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/rms_norm.h"

namespace muster::kernels::cuda {
namespace {

template <typename T>
struct ForwardRows {
  const T *x, *residual, *weight;
  T *h, *y;
  float* rstd;
  int64_t num_rows, dim;
  float epsilon;
};

template <typename T, int kWidth, int kPerThread, int kThreads>
__global__ void __launch_bounds__(kThreads) ForwardKernel(ForwardRows<T> rows) {
  const int64_t row = RowOfThread();
  if (row >= rows.num_rows) return;
  const int64_t at = row * rows.dim, vectors = rows.dim / kWidth;
  float h[kPerThread][kWidth];
  float squares = 0;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    LoadFloats(rows.x + at + offset, h[slot]);
    if (rows.residual != nullptr) {
      float residual[kWidth];
      LoadFloats(rows.residual + at + offset, residual);
      // The norm is that of h as stored, which is what the backward reads.
#pragma unroll
      for (int i = 0; i < kWidth; ++i) h[slot][i] = RoundTo<T>(h[slot][i] + residual[i]);
      StoreFloats(rows.h + at + offset, h[slot]);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares += h[slot][i] * h[slot][i];
  });
  const float mean = RowSum(squares) / static_cast<float>(rows.dim);
  const float rstd = 1.0f / sqrtf(mean + rows.epsilon);
  if (threadIdx.x == 0) rows.rstd[row] = rstd;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float y[kWidth];
    LoadFloats(rows.weight + offset, y);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) y[i] *= h[slot][i] * rstd;
    StoreFloats(rows.y + at + offset, y);
  });
}

template <typename T>
struct InputRows {
  const T *d_y, *h, *weight;
  const float* rstd;
  const T* d_residual;
  T* d_h;
  int64_t num_rows, dim;
};

// With g = d_y weight:  d_h = rstd (g - h rstd^2 mean(g h)) + d_residual.
template <typename T, int kWidth, int kPerThread, int kThreads>
__global__ void __launch_bounds__(kThreads) InputKernel(InputRows<T> rows) {
  const int64_t row = RowOfThread();
  if (row >= rows.num_rows) return;
  const int64_t at = row * rows.dim, vectors = rows.dim / kWidth;
  float g[kPerThread][kWidth], h[kPerThread][kWidth];
  float sum = 0;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float weight[kWidth];
    LoadFloats(rows.d_y + at + offset, g[slot]);
    LoadFloats(rows.h + at + offset, h[slot]);
    LoadFloats(rows.weight + offset, weight);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      g[slot][i] *= weight[i];
      sum += g[slot][i] * h[slot][i];
    }
  });
  const float rstd = rows.rstd[row];
  const float projection = rstd * rstd * RowSum(sum) / static_cast<float>(rows.dim);
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float d_h[kWidth] = {};
    if (rows.d_residual != nullptr) LoadFloats(rows.d_residual + at + offset, d_h);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) d_h[i] += rstd * (g[slot][i] - h[slot][i] * projection);
    StoreFloats(rows.d_h + at + offset, d_h);
  });
}

// d_weight_d += d_y_td h_td rstd_t.
template <typename T>
struct WeightTerm {
  static constexpr int kOutputs = 1;
  const T *d_y, *h;
  const float* rstd;
  int64_t dim;

  template <int kWidth>
  __device__ void Add(int64_t row, int64_t column, float (&sums)[kOutputs][kWidth]) const {
    float d_y_values[kWidth], h_values[kWidth];
    LoadFloats(d_y + row * dim + column, d_y_values);
    LoadFloats(h + row * dim + column, h_values);
    const float r = rstd[row];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums[0][i] += d_y_values[i] * (h_values[i] * r);
  }
};

}  // namespace

void RmsNormForward(const RmsNormForwardArgs& args, StreamView stream) {
  const char* op = "RmsNormForward";
  CheckArgs(args);
  SwitchStorage(op, args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const ForwardRows<T> rows{Elements<T>(args.x),
                              Elements<T>(args.residual),
                              Elements<T>(args.weight),
                              Elements<T>(args.h),
                              Elements<T>(args.y),
                              Elements<float>(args.rstd),
                              args.x.shape[0],
                              args.x.shape[1],
                              args.epsilon};
    SwitchRow<T>(op, rows.num_rows, rows.dim, {rows.x, rows.residual, rows.weight, rows.h, rows.y},
                 stream, [&](auto width, auto per_thread, auto threads, const LaunchShape& shape) {
                   Launch(op, stream, ForwardKernel<T, width(), per_thread(), threads()>, shape,
                          rows);
                 });
  });
}

void RmsNormBackwardInput(const RmsNormBackwardInputArgs& args, StreamView stream) {
  const char* op = "RmsNormBackwardInput";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const InputRows<T> rows{Elements<T>(args.d_y),
                            Elements<T>(args.h),
                            Elements<T>(args.weight),
                            Elements<float>(args.rstd),
                            Elements<T>(args.d_residual),
                            Elements<T>(args.d_h),
                            args.h.shape[0],
                            args.h.shape[1]};
    SwitchRow<T>(
        op, rows.num_rows, rows.dim, {rows.d_y, rows.h, rows.weight, rows.d_residual, rows.d_h},
        stream, [&](auto width, auto per_thread, auto threads, const LaunchShape& shape) {
          Launch(op, stream, InputKernel<T, width(), per_thread(), threads()>, shape, rows);
        });
  });
}

void RmsNormBackwardWeight(const RmsNormBackwardWeightArgs& args, StreamView stream) {
  const char* op = "RmsNormBackwardWeight";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const WeightTerm<T> term{Elements<T>(args.d_y), Elements<T>(args.h), Elements<float>(args.rstd),
                             args.h.shape[1]};
    SumColumns<T>(op, term, args.h.shape[0], args.h.shape[1], {term.d_y, term.h},
                  {Elements<float>(args.d_weight)}, stream);
  });
}

}  // namespace muster::kernels::cuda
