#pragma once
// How the memory-bound CUDA operators cut their work into blocks: pure functions, free of CUDA, so
// that they are tested on machines without a GPU. None of them asks the device anything: the order
// of every sum is the same on all devices.
#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace muster::kernels::cuda {

constexpr int kWarp = 32;               // threads
constexpr int kVectorBytes = 16;        // the widest access of one thread
constexpr int kFlatThreads = 256;       // of a block of an elementwise operator
constexpr int kMaxThreads = 1024;       // of any block
constexpr int kPlainShared = 40 << 10;  // bytes of a launch's own shared memory; more must be asked
constexpr int kColumnWarps = 8;         // of a block that sums columns: it takes every eighth row
// The most when columns are summed, unless there are more tiles of columns: four for each of an
// H100's 132 multiprocessors, all of them at once, with room for a fifth (kColumnBlocksPerSm).
constexpr int64_t kColumnBlocks = 528;
constexpr int kColumnBlocksPerSm = 5;
constexpr int kRangeWarps = 32;  // of a block that adds the parts of such a sum

struct LaunchShape {
  int64_t blocks = 0;  // 0: there is nothing to do
  int threads_x = 1, threads_y = 1;
  int blocks_y = 1;
  int shared_bytes = 0;
};

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int RoundUpToWarps(int64_t threads) {
  return static_cast<int>(CeilDiv(std::max<int64_t>(threads, 1), kWarp) * kWarp);
}

// True if rows of `row_bytes` that start at these addresses can be moved in 16-byte accesses. Null
// stands for an absent tensor.
inline bool CanVectorize(int64_t row_bytes, std::initializer_list<const void*> bases) {
  bool aligned = row_bytes % kVectorBytes == 0;
  for (const void* base : bases) {
    aligned = aligned && reinterpret_cast<uintptr_t>(base) % kVectorBytes == 0;
  }
  return aligned;
}

// One thread an item.
constexpr LaunchShape FlatShape(int64_t items) {
  return {.blocks = CeilDiv(items, kFlatThreads), .threads_x = kFlatThreads};
}

// One block a row; its threads loop over the row's `vectors`.
constexpr LaunchShape RowLoopShape(int64_t rows, int64_t vectors) {
  return {.blocks = vectors == 0 ? 0 : rows,
          .threads_x = RoundUpToWarps(std::min<int64_t>(vectors, kFlatThreads))};
}

// One warp a row, eight rows a block.
constexpr LaunchShape WarpRowShape(int64_t rows) {
  return {.blocks = CeilDiv(rows, 8), .threads_x = kWarp, .threads_y = 8};
}

// Rows that stay in registers between two passes: each of a row's threads holds per_thread vectors.
// A row of one warp shares its block with others.
struct RowShape {
  LaunchShape launch;
  int per_thread = 0;  // 1, 2, 4 or 16; 0: the row is too long
};

// 256 threads a row until they hold four vectors each, then up to 1024 threads. Single elements
// (`is_scalar`: no 16-byte access is possible) are held sixteen a thread.
constexpr RowShape PickRowShape(int64_t rows, int64_t vectors, bool is_scalar) {
  RowShape shape;
  const int most = is_scalar ? 16 : 4;
  if (vectors > int64_t{kMaxThreads} * most) return shape;
  shape.per_thread = most;
  for (int per_thread = 1; !is_scalar && per_thread < most; per_thread *= 2) {
    if (vectors <= int64_t{kFlatThreads} * per_thread) {
      shape.per_thread = per_thread;
      break;
    }
  }
  const int threads = RoundUpToWarps(CeilDiv(vectors, shape.per_thread));
  const int rows_of_block = threads == kWarp ? 8 : 1;
  shape.launch = {.blocks = vectors == 0 ? 0 : CeilDiv(rows, rows_of_block),
                  .threads_x = threads,
                  .threads_y = rows_of_block};
  return shape;
}

// Sums over the rows of a [rows, columns] tensor, in two stages: blocks of kColumnWarps warps sum a
// tile of columns over one of blocks_y ranges of rows, then the ranges are added in order.
constexpr LaunchShape ColumnSumShape(int64_t rows, int64_t columns, int width) {
  const int64_t tiles = CeilDiv(columns, int64_t{kWarp} * width);
  const int64_t wanted = std::max<int64_t>(kColumnBlocks / std::max<int64_t>(tiles, 1), 1);
  const int64_t useful = std::max<int64_t>(CeilDiv(rows, 4 * kColumnWarps), 1);
  return {.blocks = tiles,
          .threads_x = kWarp,
          .threads_y = kColumnWarps,
          .blocks_y = static_cast<int>(std::min(wanted, useful))};
}

// The second stage: a block for 32 columns of each output, whose warps share the ranges.
constexpr LaunchShape AddRangesShape(int64_t columns, int num_outputs) {
  return {.blocks = CeilDiv(columns, int64_t{kWarp}),
          .threads_x = kWarp,
          .threads_y = kRangeWarps,
          .blocks_y = num_outputs};
}

}  // namespace muster::kernels::cuda
