#pragma once
// Sums over the rows of [rows, columns] tensors, in a fixed order and without atomics: weight and
// bias gradients. First blocks sum ranges of rows into the stream's workspace, then one thread a
// column adds the ranges in order. Reads the inputs once; the ranges are under 1 % of that.
#include <array>

#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {

// partials[output][range][column]. `term.Load(row, column, vectors)` reads kWidth columns of each
// of the term's kInputs tensors, `term.Add(vectors, row, column, sums)` adds what follows from
// them; the loads of kRowsAhead rows of a warp are under way before the first is used.
template <int kWidth, typename Term>
__global__ void __launch_bounds__(kWarp* kColumnWarps, Term::kBlocksPerSm)
    SumRangesKernel(Term term, int64_t rows, int64_t columns, float* partials) {
  constexpr int kOutputs = Term::kOutputs, kTile = kWarp * kWidth, kRows = Term::kRowsAhead;
  const int64_t tile_begin = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t column = tile_begin + threadIdx.x * kWidth;
  const int64_t range_rows = (rows + gridDim.y - 1) / gridDim.y;
  const int64_t begin = blockIdx.y * range_rows, end = min(begin + range_rows, rows);
  float sums[kOutputs][kWidth] = {};
  if (column < columns) {
    Pack<typename Term::Storage, kWidth> vectors[kRows][Term::kInputs];
    int64_t row = begin + threadIdx.y;
    for (; row + (kRows - 1) * kColumnWarps < end; row += kRows * kColumnWarps) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) term.Load(row + r * kColumnWarps, column, vectors[r]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) term.Add(vectors[r], row + r * kColumnWarps, column, sums);
    }
#pragma unroll 1
    for (; row < end; row += kColumnWarps) {
      term.Load(row, column, vectors[0]);
      term.Add(vectors[0], row, column, sums);
    }
  }
  __shared__ float of_warp[kOutputs][kColumnWarps][kTile];
#pragma unroll
  for (int output = 0; output < kOutputs; ++output) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      of_warp[output][threadIdx.y][threadIdx.x * kWidth + i] = sums[output][i];
    }
  }
  __syncthreads();
  const int thread = threadIdx.y * kWarp + threadIdx.x;
  for (int i = thread; i < kOutputs * kTile; i += kWarp * kColumnWarps) {
    const int output = i / kTile, in_tile = i % kTile;
    if (tile_begin + in_tile >= columns) continue;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kColumnWarps; ++warp) sum += of_warp[output][warp][in_tile];
    partials[(static_cast<int64_t>(output) * gridDim.y + blockIdx.y) * columns + tile_begin +
             in_tile] = sum;
  }
}

template <int kOutputs>
struct ColumnOutputs {
  float* out[kOutputs];  // null: this output is not wanted
};

// out[output][column] += sum over ranges. Each of kRangeWarps warps adds every kRangeWarps-th range
// of 32 columns, then the first adds the warps' sums in order. blockIdx.y: output.
template <int kOutputs>
__global__ void AddRangesKernel(const float* partials, int num_ranges, int64_t columns,
                                ColumnOutputs<kOutputs> outputs) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  float* out = outputs.out[blockIdx.y];
  if (out == nullptr) return;  // the whole block
  float sum = 0, before = 0;
  if (column < columns) {
    if (threadIdx.y == 0) before = out[column];
    const float* ranges =
        partials + static_cast<int64_t>(blockIdx.y) * num_ranges * columns + column;
    // All of a thread's loads are under way at once: this kernel is short, and waits but for them.
    constexpr int kLoads = 16;
    for (int first = threadIdx.y; first < num_ranges; first += kLoads * kRangeWarps) {
      float values[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int range = first + i * kRangeWarps;
        values[i] = range < num_ranges ? ranges[range * columns] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) sum += values[i];
    }
  }
  __shared__ float of_warp[kRangeWarps][kWarp];
  of_warp[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int warp = 1; warp < kRangeWarps; ++warp) sum += of_warp[warp][threadIdx.x];
  out[column] = before + sum;
}

// Adds the column sums of `term` to `outputs`. `bases` are the [rows, columns] tensors of T that
// the term reads.
template <typename T, typename Term>
void SumColumns(const char* op, const Term& term, int64_t rows, int64_t columns,
                std::initializer_list<const void*> bases,
                const ColumnOutputs<Term::kOutputs>& outputs, StreamView stream) {
  if (rows == 0 || columns == 0) return;
  const bool vectorize = CanVectorize(columns * static_cast<int64_t>(sizeof(T)), bases);
  SwitchWidth<T>(vectorize, [&](auto width) {
    LaunchShape shape = ColumnSumShape(rows, columns, width());
    // One block less on each multiprocessor than fit.
    constexpr int64_t kMost = kColumnBlocks / (kColumnBlocksPerSm - 1) * (Term::kBlocksPerSm - 1);
    shape.blocks_y = static_cast<int>(
        std::min<int64_t>(shape.blocks_y, std::max<int64_t>(kMost / shape.blocks, 1)));
    Scratch scratch(stream);
    float* partials = scratch.Take<float>(Term::kOutputs * shape.blocks_y * columns);
    if (!scratch.Fits(op, stream)) return;
    Launch(op, stream, SumRangesKernel<width(), Term>, shape, term, rows, columns, partials);
    Launch(op, stream, AddRangesKernel<Term::kOutputs>, AddRangesShape(columns, Term::kOutputs),
           partials, shape.blocks_y, columns, outputs);
  });
}

}  // namespace muster::kernels::cuda
