#include "kernels/ops/cuda/context.h"

#include "kernels/base/error.h"

namespace muster::kernels::cuda {

absl::StatusOr<CudaContext*> CudaContext::Of(StreamView stream) {
  if (stream.context() == nullptr) {
    auto context = std::make_unique<CudaContext>();
    ASSIGN_OR_RETURN(context->workspace, DeviceBuffer::Allocate(stream.device(), kWorkspaceBytes));
    stream.context() = std::move(context);
  }
  return static_cast<CudaContext*>(stream.context().get());
}

}  // namespace muster::kernels::cuda
