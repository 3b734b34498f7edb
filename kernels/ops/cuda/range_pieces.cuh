#pragma once
// What a block does with its piece of a range (kernels/ops/range_table.h).
#include <initializer_list>

#include "kernels/ops/cuda/launch_shape.h"
#include "kernels/ops/range_table.h"

namespace muster::kernels::cuda {

// True if all addresses are multiples of 16.
__device__ inline bool AreAligned(std::initializer_list<const void*> addresses) {
  uintptr_t bits = 0;
  for (const void* address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return bits % kVectorBytes == 0;
}

// Calls body.template operator()<width>(at) for the elements [at, at + width) of [begin, end), by
// all of a block's kFlatThreads threads: width kWidth if `vectorize`, else and for the last
// elements 1. `begin` is a multiple of kRangePiece.
template <int kWidth, typename Body>
__device__ void ForEachOf(int64_t begin, int64_t end, bool vectorize, Body body) {
  const int64_t vectors_end = vectorize ? end - (end - begin) % kWidth : begin;
#pragma unroll 4
  for (int64_t at = begin + threadIdx.x * kWidth; at < vectors_end; at += kFlatThreads * kWidth) {
    body.template operator()<kWidth>(at);
  }
  for (int64_t at = vectors_end + threadIdx.x; at < end; at += kFlatThreads) {
    body.template operator()<1>(at);
  }
}

}  // namespace muster::kernels::cuda
