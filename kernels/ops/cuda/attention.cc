// Chooses for each call: cuDNN's fused kernels where they apply, the direct ones else.
#include "kernels/ops/attention.h"

#include "kernels/base/error.h"
#include "kernels/ops/cuda/attention_direct.h"
#include "kernels/ops/cuda/context.h"
#ifdef MUSTER_WITH_CUDNN
#include "kernels/ops/cuda/attention_cudnn.h"
#endif

namespace muster::kernels::cuda {
namespace {

#ifdef MUSTER_WITH_CUDNN
absl::StatusOr<CudnnAttention*> CudnnOf(StreamView stream) {
  CudaContext& context = CudaContext::Of(stream);
  if (context.attention == nullptr) {
    ASSIGN_OR_RETURN(context.attention, CudnnAttention::Create(stream));
  }
  return static_cast<CudnnAttention*>(context.attention.get());
}

absl::Status Run(const AttentionForwardArgs& args, StreamView stream) {
  if (args.q.dtype == DType::kBFloat16) {
    ASSIGN_OR_RETURN(CudnnAttention* const cudnn, CudnnOf(stream));
    ASSIGN_OR_RETURN(const bool done, cudnn->Forward(args));
    if (done) return absl::OkStatus();
  }
  DirectAttentionForward(args, stream);
  return absl::OkStatus();
}

absl::Status Run(const AttentionBackwardArgs& args, StreamView stream) {
  if (args.q.dtype == DType::kBFloat16) {
    ASSIGN_OR_RETURN(CudnnAttention* const cudnn, CudnnOf(stream));
    ASSIGN_OR_RETURN(const bool done, cudnn->Backward(args));
    if (done) return absl::OkStatus();
  }
  DirectAttentionBackward(args, stream);
  return absl::OkStatus();
}
#else  // a build that was told to do without cuDNN
absl::Status Run(const AttentionForwardArgs& args, StreamView stream) {
  DirectAttentionForward(args, stream);
  return absl::OkStatus();
}
absl::Status Run(const AttentionBackwardArgs& args, StreamView stream) {
  DirectAttentionBackward(args, stream);
  return absl::OkStatus();
}
#endif

template <typename Args>
void CheckAndRun(const Args& args, StreamView stream) {
  CheckArgs(args);
  const absl::Status status = Run(args, stream);
  if (!status.ok()) stream.Fail(status);
}

}  // namespace

void AttentionForward(const AttentionForwardArgs& args, StreamView stream) {
  CheckAndRun(args, stream);
}
void AttentionBackward(const AttentionBackwardArgs& args, StreamView stream) {
  CheckAndRun(args, stream);
}

}  // namespace muster::kernels::cuda
