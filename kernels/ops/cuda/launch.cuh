#pragma once
// From an op's arguments to a launch: the dtype as a type, the stream as CUDA's, and the error of a
// launch as the stream's.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <string>
#include <type_traits>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/current_device.h"
#include "kernels/device/stream.h"
#include "kernels/ops/cuda/launch_shape.h"
#include "kernels/tensor/tensor.h"

namespace muster::kernels::cuda {

using BF16 = __nv_bfloat16;

// The widest vector of T: 4 fp32 or 8 bf16.
template <typename T>
constexpr int kVectorOf = kVectorBytes / static_cast<int>(sizeof(T));

inline cudaStream_t Native(StreamView stream) {
  return static_cast<cudaStream_t>(stream.native_handle());
}

// The elements of a tensor whose dtype the caller has switched on; null if it is absent.
template <typename T>
T* Elements(const TensorView& tensor) {
  return static_cast<T*>(tensor.data);
}

inline void FailUnimplemented(const char* op, const std::string& what, StreamView stream) {
  stream.Fail(absl::UnimplementedError(std::string(op) + " has no CUDA kernel for " + what));
}

// Calls body(T{}) with T = float or BF16. fp64, which exists for gradient checks on the CPU, leaves
// an Unimplemented error in the stream.
template <typename Body>
void SwitchStorage(const char* op, DType dtype, StreamView stream, Body&& body) {
  if (dtype == DType::kFloat32) return body(float{});
  if (dtype == DType::kBFloat16) return body(BF16{});
  FailUnimplemented(op, std::string(Name(dtype)) + "; use fp32 or bf16", stream);
}

// False, with the same error, unless an accumulator dtype is fp32.
inline bool IsFloat32(const char* op, DType dtype, StreamView stream) {
  if (dtype == DType::kFloat32) return true;
  FailUnimplemented(op, std::string(Name(dtype)) + "; use fp32", stream);
  return false;
}

// Calls body with the vector width as a type: std::integral_constant<int, kVectorOf<T> or 1>.
template <typename T, typename Body>
void SwitchWidth(bool vectorize, Body&& body) {
  if (vectorize) return body(std::integral_constant<int, kVectorOf<T>>{});
  body(std::integral_constant<int, 1>{});
}

// Enqueues a kernel; an empty grid is no launch. A failed launch is left in the stream.
template <typename... Parameters, typename... Arguments>
void Launch(const char* op, StreamView stream, void (*kernel)(Parameters...),
            const LaunchShape& shape, Arguments&&... arguments) {
  if (shape.blocks == 0 || shape.blocks_y == 0) return;
  MUSTER_CHECK(shape.blocks < (int64_t{1} << 31) && shape.blocks_y < (1 << 16))
      << op << ": a grid of " << shape.blocks << " x " << shape.blocks_y << " blocks";
  MakeCurrent(stream.device());
  if (shape.shared_bytes > kPlainShared) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
  }
  const dim3 grid(static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.blocks_y));
  const dim3 block(static_cast<unsigned>(shape.threads_x), static_cast<unsigned>(shape.threads_y));
  kernel<<<grid, block, static_cast<size_t>(shape.shared_bytes), Native(stream)>>>(
      std::forward<Arguments>(arguments)...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    stream.Fail(LibraryError(std::string("launching ") + op + ": " + cudaGetErrorString(error)));
  }
}

// Cuts the stream's workspace into pieces, from its start.
class Scratch {
 public:
  explicit Scratch(StreamView stream) : left_(stream.workspace()) {}
  template <typename T>
  T* Take(int64_t count) {
    const int64_t bytes = CeilDiv(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    wanted_ += bytes;
    if (bytes > left_.bytes) {
      left_ = {nullptr, 0};
      return nullptr;
    }
    T* taken = static_cast<T*>(left_.data);
    left_ = {static_cast<char*>(left_.data) + bytes, left_.bytes - bytes};
    return taken;
  }
  // False, with a ResourceExhausted error in the stream, if any piece did not fit.
  bool Fits(const char* op, StreamView stream) const {
    const int64_t bytes = stream.workspace().bytes;
    if (wanted_ <= bytes) return true;
    stream.Fail(absl::ResourceExhaustedError(
        std::string(op) + " wants " + std::to_string(wanted_) +
        " bytes of workspace, the stream has " + std::to_string(bytes) +
        " (kStreamWorkspaceBytes); use smaller microbatches, or raise it"));
    return false;
  }

 private:
  Workspace left_;
  int64_t wanted_ = 0;
};

}  // namespace muster::kernels::cuda
