// LayerNorm. As kernels/ops/cuda/rms_norm.cu: a row stays in registers, memory is read once. The
// variance is taken around the mean, from the registers: E[h^2] - mean^2 would cancel.
#include "kernels/ops/cuda/column_sum.cuh"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/row_switch.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/layer_norm.h"

namespace muster::kernels::cuda {
namespace {

template <typename T>
struct ForwardRows {
  const T *x, *residual, *weight, *bias;
  T *h, *y;
  float *mean, *rstd;
  int64_t num_rows, dim;
  float epsilon;
};

template <typename T, int kWidth, int kPerThread, int kThreads>
__global__ void __launch_bounds__(kThreads) ForwardKernel(ForwardRows<T> rows) {
  const int64_t row = RowOfThread();
  if (row >= rows.num_rows) return;
  const int64_t at = row * rows.dim, vectors = rows.dim / kWidth;
  const float dim = static_cast<float>(rows.dim);
  float h[kPerThread][kWidth];
  float sum = 0;
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
    for (int i = 0; i < kWidth; ++i) sum += h[slot][i];
  });
  const float mean = RowSum(sum) / dim;
  float squares = 0;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) squares += (h[slot][i] - mean) * (h[slot][i] - mean);
  });
  const float rstd = 1.0f / sqrtf(RowSum(squares) / dim + rows.epsilon);
  if (threadIdx.x == 0) {
    rows.mean[row] = mean;
    rows.rstd[row] = rstd;
  }
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float weight[kWidth], y[kWidth] = {};
    LoadFloats(rows.weight + offset, weight);
    if (rows.bias != nullptr) LoadFloats(rows.bias + offset, y);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) y[i] += (h[slot][i] - mean) * rstd * weight[i];
    StoreFloats(rows.y + at + offset, y);
  });
}

template <typename T>
struct InputRows {
  const T *d_y, *h, *weight;
  const float *mean, *rstd;
  const T* d_residual;
  T* d_h;
  int64_t num_rows, dim;
};

// With g = d_y weight and n = (h - mean) rstd:
//   d_h = rstd (g - mean(g) - n mean(g n)) + d_residual.
template <typename T, int kWidth, int kPerThread, int kThreads>
__global__ void __launch_bounds__(kThreads) InputKernel(InputRows<T> rows) {
  const int64_t row = RowOfThread();
  if (row >= rows.num_rows) return;
  const int64_t at = row * rows.dim, vectors = rows.dim / kWidth;
  const float mean = rows.mean[row], rstd = rows.rstd[row];
  float g[kPerThread][kWidth], normed[kPerThread][kWidth];
  float sum_g = 0, sum_gn = 0;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float weight[kWidth];
    LoadFloats(rows.d_y + at + offset, g[slot]);
    LoadFloats(rows.h + at + offset, normed[slot]);
    LoadFloats(rows.weight + offset, weight);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      g[slot][i] *= weight[i];
      normed[slot][i] = (normed[slot][i] - mean) * rstd;
      sum_g += g[slot][i];
      sum_gn += g[slot][i] * normed[slot][i];
    }
  });
  const float mean_g = RowSum(sum_g) / static_cast<float>(rows.dim);
  const float mean_gn = RowSum(sum_gn) / static_cast<float>(rows.dim);
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float d_h[kWidth] = {};
    if (rows.d_residual != nullptr) LoadFloats(rows.d_residual + at + offset, d_h);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      d_h[i] += rstd * (g[slot][i] - mean_g - normed[slot][i] * mean_gn);
    }
    StoreFloats(rows.d_h + at + offset, d_h);
  });
}

// d_weight_d += d_y_td n_td,   d_bias_d += d_y_td.
template <typename T>
struct WeightTerm {
  static constexpr int kOutputs = 2;
  const T *d_y, *h;
  const float *mean, *rstd;
  int64_t dim;

  template <int kWidth>
  __device__ void Add(int64_t row, int64_t column, float (&sums)[kOutputs][kWidth]) const {
    float d_y_values[kWidth], h_values[kWidth];
    LoadFloats(d_y + row * dim + column, d_y_values);
    LoadFloats(h + row * dim + column, h_values);
    const float row_mean = mean[row], row_rstd = rstd[row];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      sums[0][i] += d_y_values[i] * ((h_values[i] - row_mean) * row_rstd);
      sums[1][i] += d_y_values[i];
    }
  }
};

}  // namespace

void LayerNormForward(const LayerNormForwardArgs& args, StreamView stream) {
  const char* op = "LayerNormForward";
  CheckArgs(args);
  SwitchStorage(op, args.x.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const ForwardRows<T> rows{Elements<T>(args.x),
                              Elements<T>(args.residual),
                              Elements<T>(args.weight),
                              Elements<T>(args.bias),
                              Elements<T>(args.h),
                              Elements<T>(args.y),
                              Elements<float>(args.mean),
                              Elements<float>(args.rstd),
                              args.x.shape[0],
                              args.x.shape[1],
                              args.epsilon};
    SwitchRow<T>(op, rows.num_rows, rows.dim,
                 {rows.x, rows.residual, rows.weight, rows.bias, rows.h, rows.y}, stream,
                 [&](auto width, auto per_thread, auto threads, const LaunchShape& shape) {
                   Launch(op, stream, ForwardKernel<T, width(), per_thread(), threads()>, shape,
                          rows);
                 });
  });
}

void LayerNormBackwardInput(const LayerNormBackwardInputArgs& args, StreamView stream) {
  const char* op = "LayerNormBackwardInput";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const InputRows<T> rows{Elements<T>(args.d_y),
                            Elements<T>(args.h),
                            Elements<T>(args.weight),
                            Elements<float>(args.mean),
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

void LayerNormBackwardWeight(const LayerNormBackwardWeightArgs& args, StreamView stream) {
  const char* op = "LayerNormBackwardWeight";
  CheckArgs(args);
  SwitchStorage(op, args.h.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const WeightTerm<T> term{Elements<T>(args.d_y), Elements<T>(args.h), Elements<float>(args.mean),
                             Elements<float>(args.rstd), args.h.shape[1]};
    SumColumns<T>(op, term, args.h.shape[0], args.h.shape[1], {term.d_y, term.h},
                  {Elements<float>(args.d_weight), Elements<float>(args.d_bias)}, stream);
  });
}

}  // namespace muster::kernels::cuda
