#pragma once
// The forward of RMSNorm (kCentred false) and LayerNorm (true). A row stays in the registers of a
// warp or a block (norm_shape.h) between its sums and its result, so memory is read once: 4 numbers
// an element with a residual, 2 without. The variance is taken around the mean: E[h^2] - mean^2
// would cancel.
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/norm_shape.h"
#include "kernels/ops/cuda/row_ring.cuh"
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

// h of one vector, as stored: the norm is of that, which is what the backward reads.
template <typename T, int kWidth>
__device__ void AddResidual(const NormForward<T>& of, int64_t at, const float (&residual)[kWidth],
                            float (&h)[kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) h[i] = RoundTo<T>(h[i] + residual[i]);
  StoreFloats(of.h + at, h);
}

template <typename T, int kWidth, int kPerThread, bool kIsWarp>
__device__ void LoadSums(const NormForward<T>& of, int64_t at, float (&h)[kPerThread][kWidth]) {
  const int64_t vectors = of.dim / kWidth;
  if (!kIsWarp || of.residual == nullptr) {
    ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
      LoadFloats(of.x + at + offset, h[slot]);
      if (of.residual == nullptr) return;
      float residual[kWidth];
      LoadFloats(of.residual + at + offset, residual);
      AddResidual(of, at + offset, residual, h[slot]);
    });
    return;
  }
  // All of a warp's loads before its first store, which the compiler may not move them over.
  float residual[kPerThread][kWidth];
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    LoadFloats(of.x + at + offset, h[slot]);
    LoadFloats(of.residual + at + offset, residual[slot]);
  });
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    AddResidual(of, at + offset, residual[slot], h[slot]);
  });
}

template <typename T, int kWidth, int kPerThread, int kThreads, bool kCentred>
__global__ void __launch_bounds__(kThreads, kThreads == kFlatThreads && kPerThread == 1 ? 8 : 1)
    NormForwardKernel(NormForward<T> of) {
  const int64_t row = RowOfThread();
  if (row >= of.num_rows) return;  // only where a row is a warp's: no barrier waits for it
  const int64_t at = row * of.dim, vectors = of.dim / kWidth;
  const float dim = static_cast<float>(of.dim);
  float h[kPerThread][kWidth];
  LoadSums<T, kWidth, kPerThread, kThreads == kWarp * kWarpNormRows>(of, at, h);
  float mean[1] = {0}, squares[1] = {0};
  if constexpr (kCentred) {
    ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) mean[0] += h[slot][i];
    });
    RowSums<kThreads>(mean, /*call=*/0);
    mean[0] /= dim;
  }
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      squares[0] += (h[slot][i] - mean[0]) * (h[slot][i] - mean[0]);
    }
  });
  RowSums<kThreads>(squares, /*call=*/1);
  const float rstd = 1.0f / sqrtf(squares[0] / dim + of.epsilon);
  if (threadIdx.x == 0) {
    if constexpr (kCentred) of.mean[row] = mean[0];
    of.rstd[row] = rstd;
  }
  ForEachSlot<kWidth, kPerThread>(vectors, [&](int slot, int64_t offset) {
    float weight[kWidth], y[kWidth] = {};
    LoadFloats(of.weight + offset, weight);
    if (of.bias != nullptr) LoadFloats(of.bias + offset, y);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) y[i] += (h[slot][i] - mean[0]) * rstd * weight[i];
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
  if (shape.per_thread == 2) {
    launch(kVector, std::integral_constant<int, 2>{}, kThreads, shape.launch);
  } else {
    launch(kVector, std::integral_constant<int, 4>{}, kThreads, shape.launch);
  }
}

}  // namespace muster::kernels::cuda
