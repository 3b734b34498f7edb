#pragma once
// The backward of RMSNorm (kCentred false) and LayerNorm (true) in one pass over d_y and h, by
// blocks that walk over rows with the next ones under way (row_ring.cuh, norm_shape.h): input
// gradient, and the sums over rows of the weight's and the bias's gradient, which each block adds
// up over its rows in registers and leaves in the stream's workspace; a second kernel adds the
// blocks in order. Moves 3 numbers an element, 4 with d_residual; the blocks' sums are a few
// percent of that. With n = (h - mean) rstd (mean 0 for RMSNorm) and g = d_y weight:
//   d_h = rstd (g - mean(g) - n mean(g n)) + d_residual     (no mean(g) for RMSNorm)
//   d_weight += sum over rows of d_y n,   d_bias += sum over rows of d_y
#include "kernels/ops/cuda/column_sum.cuh"
#include "kernels/ops/cuda/norm_shape.h"
#include "kernels/ops/cuda/row_ring.cuh"
#include "kernels/ops/cuda/row_switch.cuh"

namespace muster::kernels::cuda {

template <typename T>
struct NormBackward {
  const T *d_y, *h, *d_residual, *weight;  // d_residual: null if absent
  const float *mean, *rstd;                // mean: LayerNorm only
  T* d_h;
  float* partials;  // [outputs][blocks][dim]; null: no gradient of weights is wanted
  int64_t num_rows, dim;
};

// Writes the sums of a block to of.partials: rows that its threads took side by side are added in
// order, in the ring's shared memory.
template <int kOutputs, int kWidth, int kPerThread>
__device__ void StoreBlockSums(const float (&sums)[kOutputs][kPerThread][kWidth], float* partials,
                               int64_t dim, float* shared) {
  AwaitCopies<0>();
  const auto place = [&](int y, int slot) {
    return shared + ((y * kPerThread + slot) * blockDim.x + threadIdx.x) * kWidth;
  };
#pragma unroll
  for (int output = 0; output < kOutputs; ++output) {
    __syncthreads();
    if (threadIdx.y > 0) {
#pragma unroll
      for (int slot = 0; slot < kPerThread; ++slot) {
        StoreFloats(place(threadIdx.y, slot), sums[output][slot]);
      }
    }
    __syncthreads();
    if (threadIdx.y > 0) continue;
    float* out = partials + (static_cast<int64_t>(output) * gridDim.x + blockIdx.x) * dim;
    ForEachSlot<kWidth, kPerThread>(dim / kWidth, [&](int slot, int64_t offset) {
      float total[kWidth];
#pragma unroll
      for (int i = 0; i < kWidth; ++i) total[i] = sums[output][slot][i];
      for (int y = 1; y < blockDim.y; ++y) {
        float other[kWidth];
        LoadFloats(place(y, slot), other);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) total[i] += other[i];
      }
      StoreFloats(out + offset, total);
    });
  }
}

template <typename T, int kWidth, int kPerThread, int kThreads, bool kCentred>
__global__ void __launch_bounds__(kThreads, NormBlocksPerSm(kPerThread, kThreads))
    NormBackwardKernel(NormBackward<T> of) {
  constexpr int kOutputs = kCentred ? 2 : 1;
  // With one vector a thread its n and g stay in registers over the barrier; more are read again:
  // they would take twice the registers of the sums.
  constexpr bool kHolds = kPerThread == 1;
  extern __shared__ __align__(kVectorBytes) char shared[];
  RowRing<T, kWidth, kPerThread, NormStages(kPerThread, kThreads)> ring(
      shared, of.d_y, of.h, of.d_residual, static_cast<int>(of.num_rows), static_cast<int>(of.dim));
  const float inverse_dim = 1.0f / static_cast<float>(of.dim);
  Pack<T, kWidth> weight[kPerThread];
  ring.ForEach([&](int slot, int offset) {
    weight[slot] =
        *reinterpret_cast<const Pack<T, kWidth>*>(of.weight + threadIdx.x * kWidth + offset);
  });
  // What the forward kept of a row, a turn ahead too: rstd, and -mean rstd.
  float rstd = 0, shift = 0, next_rstd = 0, next_mean = 0;
  const auto load_next = [&](int row) {
    if (row >= of.num_rows) return;
    next_rstd = of.rstd[row];
    if constexpr (kCentred) next_mean = of.mean[row];
  };
  load_next(ring.row());
  float sums[kOutputs][kPerThread][kWidth] = {}, n[kWidth], g[kWidth];
  const auto load = [&](int slot, float(&d_y)[kWidth]) {
    ring.Load(0, slot, d_y);
    ring.Load(1, slot, n);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      n[i] = n[i] * rstd + shift;
      g[i] = d_y[i] * ToFloat(weight[slot].v[i]);
    }
  };
  for (int turn = 0, turns = ring.turns(); turn < turns; ++turn, ring.End()) {
    ring.Begin();
    rstd = next_rstd;
    shift = -next_mean * next_rstd;
    load_next(ring.row() + ring.rows_of_turn());
    float terms[kOutputs] = {};  // g n, g
    if (ring.in_use()) {
      ring.ForEach([&](int slot, int) {
        float d_y[kWidth];
        load(slot, d_y);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          terms[0] += g[i] * n[i];
          sums[0][slot][i] += d_y[i] * n[i];
          if constexpr (kCentred) {
            terms[1] += g[i];
            sums[1][slot][i] += d_y[i];
          }
        }
      });
    }
    RowSums<kThreads>(terms, turn);
    if (!ring.in_use()) continue;
    const float by_n = -rstd * terms[0] * inverse_dim;
    const float base = kCentred ? -rstd * terms[kOutputs - 1] * inverse_dim : 0.0f;
    ring.ForEach([&](int slot, int offset) {
      float d_y[kWidth], d_h[kWidth] = {};
      if constexpr (!kHolds) load(slot, d_y);
      if (of.d_residual != nullptr) ring.Load(2, slot, d_h);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) d_h[i] += rstd * g[i] + (by_n * n[i] + base);
      StoreFloats(of.d_h + ring.at() + offset, d_h);
    });
  }
  if (of.partials == nullptr) return;
  StoreBlockSums<kOutputs>(sums, of.partials, of.dim, reinterpret_cast<float*>(shared));
}

// `outputs`: d_weight, and d_bias with kCentred; all of them null: only d_h is wanted.
template <bool kCentred, typename T>
void RunNormBackward(const char* op, NormBackward<T> of,
                     const ColumnOutputs<kCentred ? 2 : 1>& outputs, StreamView stream) {
  constexpr int kOutputs = kCentred ? 2 : 1;
  bool wanted = false;
  for (const float* out : outputs.out) wanted = wanted || out != nullptr;
  MUSTER_CHECK(of.num_rows < (int64_t{1} << 30)) << op << ": " << of.num_rows << " rows";
  SwitchRow<T>(op, of.num_rows, of.dim, {of.d_y, of.h, of.d_residual, of.weight, of.d_h}, stream,
               [&](auto width, auto per_thread, auto threads, const LaunchShape& of_rows) {
                 if (of_rows.blocks == 0) return;
                 const LaunchShape shape =
                     NormBackwardShape(of.num_rows, of_rows.threads_x, per_thread(), threads(),
                                       /*num_tensors=*/3, width() * static_cast<int>(sizeof(T)));
                 Scratch scratch(stream);
                 if (wanted) of.partials = scratch.Take<float>(kOutputs * shape.blocks * of.dim);
                 if (!scratch.Fits(op, stream)) return;
                 Launch(op, stream,
                        NormBackwardKernel<T, width(), per_thread(), threads(), kCentred>, shape,
                        of);
                 if (!wanted) return;
                 Launch(op, stream, AddRangesKernel<kOutputs>, AddRangesShape(of.dim, kOutputs),
                        of.partials, static_cast<int>(shape.blocks), of.dim, outputs);
               });
}

}  // namespace muster::kernels::cuda
