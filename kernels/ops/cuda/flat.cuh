#pragma once
// Elementwise operators over flat ranges: one thread a vector, and the last elements one by one.
#include "kernels/ops/cuda/launch.cuh"

namespace muster::kernels::cuda {

// `body.Run<width>(at)` does elements [at, at + width).
template <int kWidth, typename Body>
__global__ void FlatKernel(int64_t size, Body body) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = size / kWidth;
  if (thread < vectors) {
    body.template Run<kWidth>(thread * kWidth);
  } else if (const int64_t at = vectors * kWidth + (thread - vectors); at < size) {
    body.template Run<1>(at);
  }
}

// kWidth elements a thread if all `bases` (null: absent) are aligned to 16 bytes, else one.
template <int kWidth, typename Body>
void RunFlat(const char* op, int64_t size, std::initializer_list<const void*> bases,
             const Body& body, StreamView stream) {
  if (CanVectorize(0, bases)) {
    const int64_t threads = size / kWidth + size % kWidth;
    Launch(op, stream, FlatKernel<kWidth, Body>, FlatShape(threads), size, body);
  } else {
    Launch(op, stream, FlatKernel<1, Body>, FlatShape(size), size, body);
  }
}

}  // namespace muster::kernels::cuda
