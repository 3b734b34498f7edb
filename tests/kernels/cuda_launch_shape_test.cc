// The launch configurations of the memory-bound CUDA operators: pure functions, tested anywhere.
#include <gtest/gtest.h>

#include "kernels/ops/cuda/launch_shape.h"

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
      EXPECT_LE(shape.blocks_y * shape.blocks, 2 * kColumnBlocks);
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
