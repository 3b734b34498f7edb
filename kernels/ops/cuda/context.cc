#include "kernels/ops/cuda/context.h"

namespace muster::kernels::cuda {

CudaContext& CudaContext::Of(StreamView stream) {
  if (stream.context() == nullptr) stream.context() = std::make_unique<CudaContext>();
  return static_cast<CudaContext&>(*stream.context());
}

}  // namespace muster::kernels::cuda
