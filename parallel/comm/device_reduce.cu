// One thread per element, walking the ranks' contributions in order. The sources were just received
// and lie in staging memory of a few MiB, mostly in the second-level cache, so 4-byte accesses do.
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

template <typename T>
using AccumulatorIn = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, float, T>;

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

template <typename T>
__global__ void ReduceKernel(const T* sources, int64_t stride, int num_sources, T* out,
                             int64_t count, bool sum) {
  using Acc = AccumulatorIn<T>;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    Acc result = static_cast<Acc>(sources[i]);
    for (int source = 1; source < num_sources; ++source) {
      result = Combine(result, static_cast<Acc>(sources[source * stride + i]), sum);
    }
    out[i] = static_cast<T>(result);
  }
}

template <typename T>
absl::Status Launch(ReduceOp op, const void* sources, int64_t stride, int num_sources, void* out,
                    int64_t count, kernels::StreamView stream) {
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMaxBlocks);
  ReduceKernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                 static_cast<cudaStream_t>(stream.native_handle())>>>(
      static_cast<const T*>(sources), stride, num_sources, static_cast<T*>(out), count,
      op == ReduceOp::kSum);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(std::string("launching a reduction: ") + cudaGetErrorString(error));
}

}  // namespace

absl::Status ReduceOnDevice(DType dtype, ReduceOp op, const void* sources, int64_t stride,
                            int num_sources, void* out, int64_t count, kernels::StreamView stream) {
  MUSTER_CHECK(num_sources > 0);
  if (count == 0) return absl::OkStatus();
  switch (dtype) {
    case DType::kFloat32:
      return Launch<float>(op, sources, stride, num_sources, out, count, stream);
    case DType::kBFloat16:
      return Launch<__nv_bfloat16>(op, sources, stride, num_sources, out, count, stream);
    case DType::kFloat64:
      return Launch<double>(op, sources, stride, num_sources, out, count, stream);
    case DType::kInt32:
      return Launch<int32_t>(op, sources, stride, num_sources, out, count, stream);
    case DType::kInt64:
      return Launch<int64_t>(op, sources, stride, num_sources, out, count, stream);
    case DType::kUInt8:
      break;
  }
  MUSTER_CHECK(false) << "no reduction of " << kernels::Name(dtype);
  return absl::InternalError("not reached");
}

}  // namespace muster::parallel
