#pragma once
// What device code of the memory-bound operators shares: 16-byte accesses converted to fp32 and
// back, sums over a row's threads, and checks of indices that only the device knows.
#include <cuda_bf16.h>

#include <cstdint>
#include <cstdio>

#include "kernels/ops/cuda/launch_shape.h"

namespace muster::kernels::cuda {

// A wrong index or count is our bug, as in the CPU operators: prints and kills the context, which
// the stream's next Synchronize reports.
#define MUSTER_DEVICE_CHECK(condition, format, ...) \
  do {                                              \
    if (!(condition)) {                             \
      printf(format "\n", __VA_ARGS__);             \
      __trap();                                     \
    }                                               \
  } while (false)

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ T FromFloat(float value) {
  if constexpr (sizeof(T) == 2) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// `value` as it reads after being stored as T.
template <typename T>
__device__ float RoundTo(float value) {
  return ToFloat(FromFloat<T>(value));
}

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth < kVectorBytes ? sizeof(T) * kWidth : kVectorBytes) Pack {
  T v[kWidth];
};

template <int kWidth, typename T>
__device__ void LoadFloats(const T* from, float (&values)[kWidth]) {
  const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(from);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = ToFloat(pack.v[i]);
}

template <int kWidth, typename T>
__device__ void StoreFloats(T* to, const float (&values)[kWidth]) {
  Pack<T, kWidth> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.v[i] = FromFloat<T>(values[i]);
  *reinterpret_cast<Pack<T, kWidth>*>(to) = pack;
}

// Butterflies: all lanes end with the same bits.
template <typename T>
__device__ T WarpSum(T value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}
__device__ inline float WarpMax(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

// Over all threads of the same threadIdx.y, in a fixed order; all of them get the result. Either
// blockDim.x is one warp, or blockDim.y is 1 and all threads of the block call it.
template <typename T>
__device__ T RowSum(T value) {
  value = WarpSum(value);
  if (blockDim.x == kWarp) return value;
  __shared__ T of_warp[kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();  // The call before may still be reading.
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return WarpSum(lane < blockDim.x / kWarp ? of_warp[lane] : T{0});
}
__device__ inline float RowMax(float value) {
  value = WarpMax(value);
  if (blockDim.x == kWarp) return value;
  __shared__ float of_warp[kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return WarpMax(lane < blockDim.x / kWarp ? of_warp[lane] : -INFINITY);
}

// Calls body(slot, offset) for each of the vectors of a row that this thread holds: slot is a
// compile-time constant after unrolling, so arrays indexed by it stay in registers.
template <int kWidth, int kPerThread, typename Body>
__device__ void ForEachSlot(int64_t vectors, Body body) {
#pragma unroll
  for (int slot = 0; slot < kPerThread; ++slot) {
    const int64_t vector = static_cast<int64_t>(slot) * blockDim.x + threadIdx.x;
    if (vector < vectors) body(slot, vector * kWidth);
  }
}

// The row of a block's threads, where a warp's row shares the block with others.
__device__ inline int64_t RowOfThread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

// How many rows are in use: `row_count` is null (all) or lies in device memory.
__device__ inline int64_t RowsInUse(const int64_t* row_count, int64_t bound) {
  if (row_count == nullptr) return bound;
  const int64_t rows = *row_count;
  MUSTER_DEVICE_CHECK(rows >= 0 && rows <= bound, "row_count is %lld, the planned bound is %lld",
                      static_cast<long long>(rows), static_cast<long long>(bound));
  return rows;
}

// exp within a few ulp times the size of the exponent: on the special function unit.
__device__ inline float FastExp(float x) { return __expf(x); }
// 1 / (1 + e^-x); 0 where e^-x overflows.
__device__ inline float FastSigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

}  // namespace muster::kernels::cuda
