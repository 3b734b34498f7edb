// A thread walks the ranks' contributions to its elements in order: 16 bytes of each where all of
// them are aligned, which a bucket's parts are, else one element. Contributions that were received
// in pieces of a MiB lie in the second-level cache; those of a bucket come from memory, and the sum
// moves them at its speed.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <type_traits>

#include "kernels/base/error.h"
#include "parallel/comm/device_reduce.h"

namespace muster::parallel {
namespace {

using kernels::DType;

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1024;
constexpr int kVectorBytes = 16;

template <typename T>
using AccumulatorIn = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, float, T>;

// Where the contributions are. `own`: that of source number own_index; the other sources lie one
// after another.
template <typename T>
struct Sources {
  const T* others;
  int64_t stride;  // elements between two of them
  int count;
  const T* own = nullptr;
  int own_index = -1;  // none

  __device__ const T* At(int source) const {
    if (source == own_index) return own;
    return others + (source - (own_index >= 0 && source > own_index ? 1 : 0)) * stride;
  }
};

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T v[kWidth];
};

template <typename Acc>
__device__ Acc Combine(Acc a, Acc b, bool sum) {
  if (!sum) return (b > a || b != b) ? b : a;  // b != b: NaN, which must not get lost
  if constexpr (std::is_integral_v<Acc>) {
    using Unsigned = std::make_unsigned_t<Acc>;
    return static_cast<Acc>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

// Elements [at, at + kWidth).
template <int kWidth, typename T>
__device__ void ReduceAt(const Sources<T>& sources, T* out, int64_t at, bool sum) {
  using Acc = AccumulatorIn<T>;
  using Vector = Pack<T, kWidth>;
  const auto load = [&](int source) {
    return *reinterpret_cast<const Vector*>(sources.At(source) + at);
  };
  Acc result[kWidth];
  const Vector first = load(0);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) result[i] = static_cast<Acc>(first.v[i]);
  for (int source = 1; source < sources.count; ++source) {
    const Vector next = load(source);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      result[i] = Combine(result[i], static_cast<Acc>(next.v[i]), sum);
    }
  }
  Vector rounded;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) rounded.v[i] = static_cast<T>(result[i]);
  *reinterpret_cast<Vector*>(out + at) = rounded;
}

template <int kWidth, typename T>
__global__ void ReduceKernel(Sources<T> sources, T* out, int64_t count, bool sum) {
  const int64_t step = int64_t{gridDim.x} * kThreads, vectors = count / kWidth;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (int64_t i = thread; i < vectors; i += step) ReduceAt<kWidth>(sources, out, i * kWidth, sum);
  if (const int64_t at = vectors * kWidth + thread; kWidth > 1 && at < count) {
    ReduceAt<1>(sources, out, at, sum);
  }
}

template <typename T>
bool IsAligned(const Sources<T>& sources, const T* out) {
  const auto aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0;
  };
  return aligned(out) && aligned(sources.others) && aligned(sources.own) &&
         sources.stride * static_cast<int64_t>(sizeof(T)) % kVectorBytes == 0;
}

template <typename T>
absl::Status Launch(ReduceOp op, const Sources<T>& sources, T* out, int64_t count,
                    kernels::StreamView stream) {
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  const bool vectors = IsAligned(sources, out);
  const int64_t threads = vectors ? std::max<int64_t>(count / kWidth, count % kWidth) : count;
  const auto blocks =
      static_cast<unsigned>(std::min((threads + kThreads - 1) / kThreads, kMaxBlocks));
  const auto kernel = vectors ? ReduceKernel<kWidth, T> : ReduceKernel<1, T>;
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream.native_handle())>>>(
      sources, out, count, op == ReduceOp::kSum);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return absl::OkStatus();
  return kernels::LibraryError(std::string("launching a reduction: ") + cudaGetErrorString(error));
}

// Calls `launch` with a value of the element type.
template <typename Launcher>
absl::Status SwitchType(DType dtype, Launcher launch) {
  switch (dtype) {
    case DType::kFloat32:
      return launch(float{});
    case DType::kBFloat16:
      return launch(__nv_bfloat16{});
    case DType::kFloat64:
      return launch(double{});
    case DType::kInt32:
      return launch(int32_t{});
    case DType::kInt64:
      return launch(int64_t{});
    case DType::kUInt8:
      break;
  }
  MUSTER_CHECK(false) << "no reduction of " << kernels::Name(dtype);
  return absl::InternalError("not reached");
}

}  // namespace

absl::Status ReduceOnDevice(DType dtype, ReduceOp op, const void* sources, int64_t stride,
                            int num_sources, void* out, int64_t count, kernels::StreamView stream) {
  MUSTER_CHECK(num_sources > 0);
  if (count == 0) return absl::OkStatus();
  return SwitchType(dtype, [&](auto tag) {
    using T = decltype(tag);
    return Launch<T>(op, {static_cast<const T*>(sources), stride, num_sources},
                     static_cast<T*>(out), count, stream);
  });
}

absl::Status SumWithOwn(DType dtype, const void* own, int rank, const void* others, int num_others,
                        void* out, int64_t count, kernels::StreamView stream) {
  MUSTER_CHECK(rank >= 0 && rank <= num_others);
  if (count == 0) return absl::OkStatus();
  return SwitchType(dtype, [&](auto tag) {
    using T = decltype(tag);
    return Launch<T>(
        ReduceOp::kSum,
        {static_cast<const T*>(others), count, num_others + 1, static_cast<const T*>(own), rank},
        static_cast<T*>(out), count, stream);
  });
}

}  // namespace muster::parallel
