#pragma once
// What the CUDA operators keep with a stream: the handles and plans of the libraries behind matrix
// products and attention. Each is made, and known in full, by its operators' own files.
#include <memory>

#include "kernels/device/stream.h"

namespace muster::kernels::cuda {

struct CudaContext final : StreamContext {
  std::unique_ptr<StreamContext> matmul, attention;

  // The stream's context, made at the first call.
  static CudaContext& Of(StreamView stream);
};

}  // namespace muster::kernels::cuda
