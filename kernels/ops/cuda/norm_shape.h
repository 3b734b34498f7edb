#pragma once
// How RMSNorm and LayerNorm cut their rows into blocks; pure functions, as in launch_shape.h.
#include "kernels/ops/cuda/launch_shape.h"

namespace muster::kernels::cuda {

// Forward: rows of up to 128 vectors are a warp's, whose lanes hold 2 or 4 vectors each: more rows
// are under way than with a block a row, and no barrier is needed. With more vectors a lane a
// warp's instructions take longer than its bytes (8 a lane: 58 % of a copy's rate at 1600 bf16).
constexpr int kWarpNormRows = 4;  // of a block
constexpr bool IsWarpNorm(int64_t vectors, bool is_scalar) {
  return !is_scalar && vectors <= 4 * kWarp;
}
constexpr RowShape WarpNormShape(int64_t rows, int64_t vectors) {
  return {.launch = {.blocks = vectors == 0 ? 0 : CeilDiv(rows, kWarpNormRows),
                     .threads_x = kWarp,
                     .threads_y = kWarpNormRows},
          .per_thread = vectors <= 2 * kWarp ? 2 : 4};
}

// Backward: blocks that stay and walk over rows (row_ring.cuh). How many rows a block is ahead, the
// row at hand among them; how many blocks there are, in multiples of an H100's 132
// multiprocessors; and how many the kernels are compiled to fit on one: more than there are where
// that is possible, so that beside a collective's blocks none has to wait for the others to end.
constexpr int NormStages(int per_thread, int max_threads) {
  if (max_threads > kFlatThreads) return 1;
  return per_thread == 1 ? 4 : 2;
}
constexpr int NormBlocks(int per_thread, int max_threads) {
  if (max_threads > kFlatThreads) return 132;
  return per_thread == 1 ? 396 : 264;
}
constexpr int NormBlocksPerSm(int per_thread, int max_threads) {
  if (max_threads > kFlatThreads) return 1;
  return per_thread == 1 ? 4 : per_thread == 2 ? 3 : 2;
}
constexpr LaunchShape NormBackwardShape(int64_t rows, int threads_of_row, int per_thread,
                                        int max_threads, int num_tensors, int vector_bytes) {
  LaunchShape shape;
  shape.threads_x = threads_of_row;
  shape.threads_y = std::max(1, kFlatThreads / threads_of_row);
  shape.blocks =
      std::min<int64_t>(CeilDiv(rows, shape.threads_y), NormBlocks(per_thread, max_threads));
  shape.shared_bytes = NormStages(per_thread, max_threads) * num_tensors * per_thread *
                       shape.threads_x * shape.threads_y * vector_bytes;
  return shape;
}

}  // namespace muster::kernels::cuda
