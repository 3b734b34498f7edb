#pragma once
// The forward of RMSNorm (kCentred false) and LayerNorm (true). A row stays in the registers of a
// warp or a block (norm_shape.h) between its sums and its result, so memory is read once: 4 numbers
// an element with a residual, 2 without. The variance is taken around the mean: E[h^2] - mean^2
// would cancel.
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/norm_shape.h"
#include "kernels/ops/cuda/row_switch.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {

template <typename T>
struct NormForward {
  const T *x, *residual, *weight, *bias;  // residual, bias: null if absent
  T *h, *y;
  float *mean, *rstd;  // mean: LayerNorm only
  int64_t num_rows, dim;
  float epsilon;
};

// h of one thread's part of a row, as stored: the norm is of that, which is what the backward
// reads. All loads come before the first store, which the compiler may not move them over.
template <typename T, int kWidth, int kPerThread>
__device__ void LoadSums(const NormForward<T>& of, int64_t at, Pack<T, kWidth> (&h)[kPerThread]) {
  const int64_t vectors = of.dim / kWidth;
  Pack<T, kWidth> residual[kPerThread];
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    h[slot] = *reinterpret_cast<const Pack<T, kWidth>*>(of.x + at + offset);
    if (of.residual == nullptr) return;
    residual[slot] = *reinterpret_cast<const Pack<T, kWidth>*>(of.residual + at + offset);
  });
  if (of.residual == nullptr) return;
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      h[slot].v[i] = FromFloat<T>(ToFloat(h[slot].v[i]) + ToFloat(residual[slot].v[i]));
    }
    *reinterpret_cast<Pack<T, kWidth>*>(of.h + at + offset) = h[slot];
  });
}

template <typename T, int kWidth, int kPerThread, int kThreads, bool kCentred>
__global__ void __launch_bounds__(kThreads, NormForwardBlocksPerSm(kThreads))
    NormForwardKernel(NormForward<T> of) {
  const int64_t row = RowOfThread();
  if (row >= of.num_rows) return;
  const int64_t at = row * of.dim, vectors = of.dim / kWidth;
  const float dim = static_cast<float>(of.dim);
  Pack<T, kWidth> h[kPerThread];  // not as floats, which would take twice the registers
  LoadSums<T, kWidth, kPerThread>(of, at, h);
  float mean = 0, squares = 0;
  if constexpr (kCentred) {
    ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) mean += ToFloat(h[slot].v[i]);
    });
    mean = RowSum(mean) / dim;
  }
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float centred = ToFloat(h[slot].v[i]) - mean;
      squares += centred * centred;
    }
  });
  const float rstd = 1.0f / sqrtf(RowSum(squares) / dim + of.epsilon);
  if (threadIdx.x == 0) {
    if constexpr (kCentred) of.mean[row] = mean;
    of.rstd[row] = rstd;
  }
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float weight[kWidth], y[kWidth] = {};
    LoadFloats(of.weight + offset, weight);
    if (of.bias != nullptr) LoadFloats(of.bias + offset, y);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) y[i] += (ToFloat(h[slot].v[i]) - mean) * rstd * weight[i];
    StoreFloats(of.y + at + offset, y);
  });
}

template <bool kCentred, typename T>
void RunNormForward(const char* op, const NormForward<T>& of, StreamView stream) {
  const auto launch = [&](auto width, auto per_thread, auto threads, const LaunchShape& shape) {
    Launch(op, stream, NormForwardKernel<T, width(), per_thread(), threads(), kCentred>, shape, of);
  };
  constexpr std::integral_constant<int, kVectorOf<T>> kVector;
  constexpr std::integral_constant<int, kWarp * kWarpNormRows> kThreads;
  const std::initializer_list<const void*> bases = {of.x,    of.residual, of.weight,
                                                    of.bias, of.h,        of.y};
  const bool is_scalar = !CanVectorize(of.dim * static_cast<int64_t>(sizeof(T)), bases);
  const int64_t vectors = of.dim / kVectorOf<T>;
  if (!IsWarpNorm(vectors, is_scalar)) {
    return SwitchRow<T>(op, of.num_rows, of.dim, bases, stream, launch);
  }
  const RowShape shape = WarpNormShape(of.num_rows, vectors);
  switch (shape.per_thread) {
    case 2:
      return launch(kVector, std::integral_constant<int, 2>{}, kThreads, shape.launch);
    case 4:
      return launch(kVector, std::integral_constant<int, 4>{}, kThreads, shape.launch);
    default:
      return launch(kVector, std::integral_constant<int, 8>{}, kThreads, shape.launch);
  }
}

}  // namespace muster::kernels::cuda
