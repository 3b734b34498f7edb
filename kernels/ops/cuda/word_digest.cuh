#pragma once
// Digests (kernels/base/word_digest.h) on the device: each thread adds up what it reads, each block
// adds its threads' sums, and blocks add theirs with atomics. Sums of integers are the same in any
// order.
#include "kernels/base/word_digest.h"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {

__device__ inline uint32_t BitsOf(float value) { return __float_as_uint(value); }
__device__ inline uint16_t BitsOf(__nv_bfloat16 value) { return __bfloat16_as_ushort(value); }

// The `word`-th 4-byte word of elements that lie in registers.
template <int kWidth>
__device__ uint32_t WordOf(const float (&values)[kWidth], int word) {
  return BitsOf(values[word]);
}
template <int kWidth>
__device__ uint32_t WordOf(const __nv_bfloat16 (&values)[kWidth], int word) {
  return BitsOf(values[2 * word]) | (static_cast<uint32_t>(BitsOf(values[2 * word + 1])) << 16);
}

// Of elements [at, at + kWidth) of a range: whole pairs of words, or one element.
template <int kWidth, typename T>
__device__ uint64_t DigestOf(int64_t at, const T (&values)[kWidth]) {
  constexpr int kPerPair = 8 / sizeof(T);
  if constexpr (kWidth % kPerPair != 0) {
    static_assert(kWidth == 1);
    return DigestTerm(static_cast<uint64_t>(at), BitsOf(values[0]));
  } else {
    uint64_t digest = 0;
#pragma unroll
    for (int pair = 0; pair < kWidth / kPerPair; ++pair) {
      digest += DigestTerm(DigestKeysOf(at / kPerPair + pair), uint64_t{WordOf(values, 2 * pair)},
                           uint64_t{WordOf(values, 2 * pair + 1)});
    }
    return digest;
  }
}

// The sum of all threads' `digest`, added to *out. All threads of a block of kFlatThreads call it.
__device__ inline void AddDigest(uint64_t digest, int64_t* out) {
  const unsigned long long sum = RowSum(static_cast<unsigned long long>(digest));
  if (threadIdx.x == 0) atomicAdd(reinterpret_cast<unsigned long long*>(out), sum);
}

}  // namespace muster::kernels::cuda
