// The launch configurations of the memory-bound CUDA operators: pure functions, tested anywhere.
#include <gtest/gtest.h>

#include "kernels/ops/cuda/launch_shape.h"
#include "kernels/ops/cuda/norm_shape.h"

namespace muster::kernels::cuda {
namespace {

TEST(LaunchShape, FlatCoversEveryItemOnce) {
  for (int64_t items : {0, 1, 255, 256, 257, 1000003}) {
    const LaunchShape shape = FlatShape(items);
    EXPECT_GE(shape.blocks * shape.threads_x, items);
    EXPECT_LT((shape.blocks - 1) * shape.threads_x, items);
  }
}

TEST(LaunchShape, NothingToDoIsAnEmptyGrid) {
  EXPECT_EQ(FlatShape(0).blocks, 0);
  EXPECT_EQ(RowLoopShape(0, 8).blocks, 0);
  EXPECT_EQ(RowLoopShape(8, 0).blocks, 0);
  EXPECT_EQ(WarpRowShape(0).blocks, 0);
  EXPECT_EQ(PickRowShape(0, 8, false).launch.blocks, 0);
  EXPECT_EQ(ColumnSumShape(8, 0, 8).blocks, 0);
}

TEST(LaunchShape, RowFitsIntoTheRegistersOfItsThreads) {
  for (bool is_scalar : {false, true}) {
    for (int64_t vectors = 1; vectors <= (is_scalar ? 16384 : 4096); vectors += 13) {
      const RowShape shape = PickRowShape(1000, vectors, is_scalar);
      ASSERT_GT(shape.per_thread, 0) << vectors;
      EXPECT_EQ(shape.per_thread == 16, is_scalar);
      EXPECT_GE(int64_t{shape.launch.threads_x} * shape.per_thread, vectors);
      EXPECT_LE(shape.launch.threads_x * shape.launch.threads_y, kMaxThreads);
      // Kernels with fewer elements a thread are compiled for blocks of no more (row_switch.cuh).
      if (shape.per_thread < 4) {
        EXPECT_LE(shape.launch.threads_x * shape.launch.threads_y, kFlatThreads);
      }
      EXPECT_EQ(shape.launch.threads_x % kWarp, 0);
      // Rows share a block only as whole warps: their sums use no barrier.
      EXPECT_TRUE(shape.launch.threads_y == 1 || shape.launch.threads_x == kWarp);
      EXPECT_GE(shape.launch.blocks * shape.launch.threads_y, 1000);
    }
  }
}

TEST(LaunchShape, WarpsOfANormHoldTheirRows) {
  for (int64_t vectors = 1; vectors <= 4 * kWarp; ++vectors) {
    ASSERT_TRUE(IsWarpNorm(vectors, /*is_scalar=*/false));
    const RowShape shape = WarpNormShape(1001, vectors);
    EXPECT_GE(kWarp * shape.per_thread, vectors);
    EXPECT_GE(shape.launch.blocks * shape.launch.threads_y, 1001);
  }
  EXPECT_FALSE(IsWarpNorm(4 * kWarp + 1, /*is_scalar=*/false));
  EXPECT_FALSE(IsWarpNorm(8, /*is_scalar=*/true));
  EXPECT_EQ(WarpNormShape(8, 0).launch.blocks, 0);
}

TEST(LaunchShape, NormBlocksTakeAllRowsAndFitBesideEachOther) {
  constexpr int kSharedOfSm = 227 << 10, kRegistersOfSm = 64 << 10;  // compute capability 9.0
  for (int64_t dim : {1, 96, 768, 1600, 2048, 4096, 8192, 32768}) {
    for (bool is_scalar : {false, true}) {
      const RowShape row = PickRowShape(100000, is_scalar ? dim : CeilDiv(dim, 8), is_scalar);
      if (row.per_thread == 0) continue;
      const int max_threads = row.launch.threads_x > kFlatThreads ? kMaxThreads : kFlatThreads;
      for (int64_t rows : {1, 100000}) {
        const LaunchShape shape =
            NormBackwardShape(rows, row.launch.threads_x, row.per_thread, max_threads,
                              /*num_tensors=*/3, is_scalar ? 4 : kVectorBytes);
        EXPECT_GE(shape.blocks, 1);
        EXPECT_LE((shape.blocks - 1) * shape.threads_y, rows);
        EXPECT_LE(shape.threads_x * shape.threads_y, max_threads);
        const int blocks_of_sm = NormBlocksPerSm(row.per_thread, max_threads);
        EXPECT_LE(blocks_of_sm * (shape.shared_bytes + 1024), kSharedOfSm) << dim;
        EXPECT_LE(blocks_of_sm * max_threads * 64, kRegistersOfSm) << dim;
        EXPECT_GE(blocks_of_sm * 132, shape.blocks) << dim;  // none waits
      }
    }
  }
}

TEST(LaunchShape, RowTooLongForRegistersIsRefused) {
  EXPECT_EQ(PickRowShape(8, 4097, false).per_thread, 0);
  EXPECT_EQ(PickRowShape(8, 16385, true).per_thread, 0);
}

TEST(LaunchShape, ColumnSumsHaveWorkForAllBlocksAndBoundTheirScratch) {
  for (int64_t rows : {1, 31, 4096, 1 << 20}) {
    for (int64_t columns : {1, 128, 4096, 131072}) {
      const LaunchShape shape = ColumnSumShape(rows, columns, 8);
      EXPECT_GE(shape.blocks * kWarp * 8, columns);
      EXPECT_GE(shape.blocks_y, 1);
      EXPECT_TRUE(shape.blocks_y == 1 || shape.blocks_y * 2 * kColumnWarps <= rows);
      EXPECT_TRUE(shape.blocks_y == 1 || shape.blocks_y * shape.blocks <= kColumnBlocks);
    }
  }
}

TEST(LaunchShape, VectorsNeedAlignedRows) {
  alignas(16) char memory[32];
  EXPECT_TRUE(CanVectorize(32, {memory, nullptr}));
  EXPECT_FALSE(CanVectorize(24, {memory}));
  EXPECT_FALSE(CanVectorize(32, {memory, memory + 2}));
}

}  // namespace
}  // namespace muster::kernels::cuda
