#pragma once
// Tiles of a bf16 matrix product through mma.sync m16n8k16: 128 x 128 results per block of four
// warps (64 x 64 each), 32 of the reduction at a time, kStages of them in shared memory, filled by
// cp.async. What lies outside a matrix is filled with zeros. Operands may be stored with the
// reduction as their contiguous dim ([outer, reduction]) or as their first ([reduction, outer]).
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/ops/cuda/launch_shape.h"

namespace muster::kernels::cuda {

constexpr int kTileOuter = 128, kTileReduction = 32, kStages = 4;
constexpr int kTileThreads = 128;
constexpr int kWarpOuter = 64;  // rows, and columns, of a warp's results
constexpr int kChunk = 8;       // bf16 elements of a 16-byte access
constexpr int kPadding = 8;     // elements; spreads the rows of a tile over the banks
constexpr int kMmaRows = 16, kMmaColumns = 8, kMmaReduction = 16;
constexpr int kRowFragments = kWarpOuter / kMmaRows, kColumnFragments = kWarpOuter / kMmaColumns;

// A matrix in memory: `data` at its first element in use, what is outside the limits is zero. The
// contiguous dim's limit is a multiple of kChunk, and every row begins on 16 bytes.
struct Operand {
  const __nv_bfloat16* data;
  int64_t row_stride;
  int64_t outer_limit, reduction_limit;
};

template <bool kReductionFirst>
struct TileShape {
  static constexpr int kRows = kReductionFirst ? kTileReduction : kTileOuter;
  static constexpr int kColumns = kReductionFirst ? kTileOuter : kTileReduction;
  static constexpr int kStride = kColumns + kPadding;
  static constexpr int kElements = kRows * kStride;
};

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts the copy of the tile at (outer 0, reduction) of `operand`.
template <bool kReductionFirst>
__device__ void StartTile(const Operand& operand, int64_t reduction, __nv_bfloat16* tile) {
  using Tile = TileShape<kReductionFirst>;
  constexpr int kRowChunks = Tile::kColumns / kChunk;
#pragma unroll
  for (int i = 0; i < Tile::kRows * kRowChunks / kTileThreads; ++i) {
    const int index = i * kTileThreads + static_cast<int>(threadIdx.x);
    const int row = index / kRowChunks, column = index % kRowChunks * kChunk;
    const int64_t outer = kReductionFirst ? column : row;
    const int64_t at = reduction + (kReductionFirst ? row : column);
    const bool inside = outer < operand.outer_limit && at < operand.reduction_limit;
    const int64_t offset =
        kReductionFirst ? at * operand.row_stride + outer : outer * operand.row_stride + at;
    const __nv_bfloat16* source = operand.data + (inside ? offset : 0);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                     SharedAddress(tile + row * Tile::kStride + column)),
                 "l"(source), "r"(inside ? 16 : 0));
  }
}

// Four 8 x 8 matrices, one register each; of [reduction, outer] tiles they come transposed.
template <bool kReductionFirst>
__device__ void LoadMatrices(uint32_t (&fragment)[4], uint32_t address) {
  if constexpr (kReductionFirst) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
  }
}

// Sixteen of the outer dim by sixteen of the reduction. The order of the four matrices is
// (outer 0, reduction 0), then `kOuterNext` ? outer 8 : reduction 8 first, as mma wants its first
// and its second operand.
template <bool kReductionFirst, bool kOuterNext>
__device__ void LoadFragment(uint32_t (&fragment)[4], const __nv_bfloat16* tile, int outer,
                             int reduction) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int matrix = lane / 8, row = lane % 8;
  const int low = matrix % 2 * 8, high = matrix / 2 * 8;
  const int o = outer + (kOuterNext ? low : high), r = reduction + (kOuterNext ? high : low);
  constexpr int kStride = TileShape<kReductionFirst>::kStride;
  LoadMatrices<kReductionFirst>(
      fragment,
      SharedAddress(tile + (kReductionFirst ? (r + row) * kStride + o : (o + row) * kStride + r)));
}

__device__ inline void Mma(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

using Sums = float[kRowFragments][kColumnFragments][4];

// sums += one pair of tiles, this warp's 64 x 64.
template <bool kAReductionFirst, bool kBReductionFirst>
__device__ void MultiplyTiles(Sums& sums, const __nv_bfloat16* a_tile, const __nv_bfloat16* b_tile,
                              int warp_row, int warp_column) {
#pragma unroll
  for (int reduction = 0; reduction < kTileReduction; reduction += kMmaReduction) {
    uint32_t a[kRowFragments][4], b[kColumnFragments / 2][4];
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
      LoadFragment<kAReductionFirst, true>(a[i], a_tile, warp_row + i * kMmaRows, reduction);
    }
#pragma unroll
    for (int j = 0; j < kColumnFragments / 2; ++j) {
      LoadFragment<kBReductionFirst, false>(b[j], b_tile, warp_column + j * 2 * kMmaColumns,
                                            reduction);
    }
#pragma unroll
    for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnFragments; ++j) {
        Mma(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

template <bool kAReductionFirst, bool kBReductionFirst>
constexpr int kTilesBytes = kStages* static_cast<int>(sizeof(__nv_bfloat16)) *
                            (TileShape<kAReductionFirst>::kElements +
                             TileShape<kBReductionFirst>::kElements);

// sums = the product of two operands over the reduction [0, reduction). `shared` holds kTilesBytes.
template <bool kAReductionFirst, bool kBReductionFirst>
__device__ void MultiplyOperands(Sums& sums, const Operand& a, const Operand& b, int64_t reduction,
                                 __nv_bfloat16* shared) {
  constexpr int kA = TileShape<kAReductionFirst>::kElements;
  constexpr int kBoth = kA + TileShape<kBReductionFirst>::kElements;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t steps = (reduction + kTileReduction - 1) / kTileReduction;
  const auto start = [&](int64_t step) {  // a group of copies, empty past the end
    if (step < steps) {
      __nv_bfloat16* stage = shared + step % kStages * kBoth;
      StartTile<kAReductionFirst>(a, step * kTileReduction, stage);
      StartTile<kBReductionFirst>(b, step * kTileReduction, stage + kA);
    }
    asm volatile("cp.async.commit_group;\n" ::);
  };
  for (int step = 0; step < kStages - 1; ++step) start(step);
  for (int64_t step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kStages - 2));
    __syncthreads();  // this step's tiles are there, and all warps have left the last step's
    start(step + kStages - 1);
    const __nv_bfloat16* stage = shared + step % kStages * kBoth;
    MultiplyTiles<kAReductionFirst, kBReductionFirst>(sums, stage, stage + kA,
                                                      warp / 2 * kWarpOuter, warp % 2 * kWarpOuter);
  }
}

// Calls put(row, column, value of column, value of column + 1) for this thread's results.
template <typename Put>
__device__ void ForEachPair(const Sums& sums, Put&& put) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kRowFragments; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnFragments; ++j) {
      const int row = warp / 2 * kWarpOuter + i * kMmaRows + lane / 4;
      const int column = warp % 2 * kWarpOuter + j * kMmaColumns + lane % 4 * 2;
      put(row, column, sums[i][j][0], sums[i][j][1]);
      put(row + 8, column, sums[i][j][2], sums[i][j][3]);
    }
  }
}

}  // namespace muster::kernels::cuda
