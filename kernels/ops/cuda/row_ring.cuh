#pragma once
// A walk over rows that never waits for memory: a block takes every gridDim.x-th group of
// blockDim.y rows, threadIdx.y the row of the group, and while it works on one group the next ones
// are on their way into shared memory. Each thread copies and reads its own vectors only (those of
// ForEachSlot, vector.cuh), so that no barrier is needed between the two. The rows of a block, and
// so the order of what it adds up, follow from the grid alone. Addresses are carried along, not
// computed anew: at 16 bytes a thread and row the instructions count as much as the bytes.
#include <cuda_bf16.h>

#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {

// Starts to copy one vector into shared memory; the thread that copied it may read it once it has
// waited. Vectors of other than 16 bytes are there at once.
template <typename T, int kWidth>
__device__ void CopyToShared(Pack<T, kWidth>* to, const T* from) {
  if constexpr (sizeof(T) * kWidth == kVectorBytes) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else {
    *to = *reinterpret_cast<const Pack<T, kWidth>*>(from);
  }
}
// Closes a group of copies, which may be empty; waits until all but the last kLeft groups are
// there.
__device__ inline void CloseCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Three tensors [num_rows, dim], the last of which may be absent (null).
template <typename T, int kWidth, int kPerThread, int kStages>
class RowRing {
 public:
  using Vector = Pack<T, kWidth>;
  static constexpr int kTensors = 3;

  // `shared`: [kStages][kTensors][kPerThread][threads of the block] vectors.
  __device__ RowRing(char* shared, const T* first, const T* second, const T* third, int num_rows,
                     int dim)
      : mine_(reinterpret_cast<Vector*>(shared) + threadIdx.y * blockDim.x + threadIdx.x),
        tensors_{first, second, third},
        has_third_(third != nullptr),
        num_rows_(num_rows),
        vectors_(dim / kWidth),
        row_(blockIdx.x * blockDim.y + threadIdx.y),
        ahead_row_(row_),
        at_(static_cast<int64_t>(row_) * dim + threadIdx.x * kWidth),
        ahead_at_(at_),
        rows_of_turn_(gridDim.x * blockDim.y),
        step_(static_cast<int64_t>(rows_of_turn_) * dim) {
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) Fetch();
  }

  // The number of turns is the block's; in the last one a thread's row may be none.
  __device__ int turns() const {
    const int groups = (num_rows_ + blockDim.y - 1) / blockDim.y;
    return (groups - static_cast<int>(blockIdx.x) + gridDim.x - 1) / gridDim.x;
  }
  // The row at hand: its number, whether it exists, and the element at which this thread begins.
  __device__ int row() const { return row_; }
  __device__ bool in_use() const { return row_ < num_rows_; }
  __device__ int64_t at() const { return at_; }
  __device__ int rows_of_turn() const { return rows_of_turn_; }

  // Begins a turn: its row is there, and the room of the turn before is filled again.
  __device__ void Begin() {
    Fetch();
    AwaitCopies<kStages - 1>();
  }
  __device__ void End() {
    row_ += rows_of_turn_;
    at_ += step_;
    stage_ = Next(stage_);
  }
  // Calls body(slot, offset) for each vector that this thread has of a row; it lies at at() +
  // offset.
  template <typename Body>
  __device__ void ForEach(Body body) const {
#pragma unroll
    for (int slot = 0; slot < kPerThread; ++slot) {
      const int vector = slot * blockDim.x + threadIdx.x;
      if (vector < vectors_) body(slot, slot * blockDim.x * kWidth);
    }
  }
  __device__ void Load(int tensor, int slot, float (&values)[kWidth]) const {
    const Vector vector = *Place(stage_, tensor, slot);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = ToFloat(vector.v[i]);
  }

 private:
  static __device__ int Next(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }
  __device__ Vector* Place(int stage, int tensor, int slot) const {
    const int index = (stage * kTensors + tensor) * kPerThread + slot;
    return mine_ + index * static_cast<int>(blockDim.x * blockDim.y);
  }
  __device__ void Fetch() {
    if (ahead_row_ < num_rows_) {
      ForEach([&](int slot, int offset) {
#pragma unroll
        for (int tensor = 0; tensor < kTensors; ++tensor) {
          if (tensor == kTensors - 1 && !has_third_) continue;
          CopyToShared(Place(ahead_stage_, tensor, slot), tensors_[tensor] + ahead_at_ + offset);
        }
      });
    }
    CloseCopies();
    ahead_row_ += rows_of_turn_;
    ahead_at_ += step_;
    ahead_stage_ = Next(ahead_stage_);
  }

  Vector* const mine_;
  const T* const tensors_[kTensors];
  const bool has_third_;
  const int num_rows_, vectors_;
  int row_, ahead_row_;
  int64_t at_, ahead_at_;
  const int rows_of_turn_;
  const int64_t step_;
  int stage_ = 0, ahead_stage_ = 0;
};

// Sums over the threads of the same threadIdx.y, which get them all, in a fixed order. All threads
// of the block, at most kThreads, call it; `call` counts the calls from 0, which lets one barrier
// do.
template <int kThreads, int kCount>
__device__ void RowSums(float (&values)[kCount], int call) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = WarpSum(values[i]);
  constexpr int kWarps = kThreads / kWarp;
  const int warps = blockDim.x / kWarp;
  if (warps == 1) return;
  __shared__ float of_warp[2][kWarps][kCount];
  const int lane = threadIdx.x % kWarp, first = threadIdx.y * warps;
  auto& room = of_warp[call % 2];
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) room[first + threadIdx.x / kWarp][i] = values[i];
  }
  __syncthreads();
  const int warp = lane % kWarps;  // groups of kWarps lanes do the same
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values[i] = warp < warps ? room[first + warp][i] : 0.0f;
#pragma unroll
    for (int distance = kWarps / 2; distance > 0; distance /= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    }
  }
}

}  // namespace muster::kernels::cuda
