// Chooses for each call: cuDNN's fused kernels, or the direct ones where kernels/ops/attention.h
// says that those run. None stands in for the other.
#include "kernels/ops/attention.h"

#include "kernels/base/error.h"
#include "kernels/ops/cuda/attention_direct.h"
#include "kernels/ops/cuda/context.h"
#ifdef MUSTER_WITH_CUDNN
#include "kernels/ops/cuda/attention_cudnn.h"
#endif

namespace muster::kernels::cuda {
namespace {

// Without queries or keys there is nothing to be slow at, and cuDNN takes no empty tensors.
template <typename Args>
bool RunsDirect(const Args& args) {
  return args.q.dtype != DType::kBFloat16 || args.kernel == AttentionKernel::kDirect ||
         args.q.num_elements() == 0 || args.k.num_elements() == 0;
}

#ifdef MUSTER_WITH_CUDNN
absl::StatusOr<CudnnAttention*> CudnnOf(StreamView stream) {
  CudaContext& context = CudaContext::Of(stream);
  if (context.attention == nullptr) {
    ASSIGN_OR_RETURN(context.attention, CudnnAttention::Create(stream));
  }
  return static_cast<CudnnAttention*>(context.attention.get());
}
absl::Status RunCudnn(const AttentionForwardArgs& args, StreamView stream) {
  ASSIGN_OR_RETURN(CudnnAttention* const cudnn, CudnnOf(stream));
  return cudnn->Forward(args);
}
absl::Status RunCudnn(const AttentionBackwardArgs& args, StreamView stream) {
  ASSIGN_OR_RETURN(CudnnAttention* const cudnn, CudnnOf(stream));
  return cudnn->Backward(args);
}
#else
template <typename Args>
absl::Status RunCudnn(const Args&, StreamView) {
  return absl::UnimplementedError(
      "attention in bf16 wants cuDNN, which this build has not: build with it "
      "(launch/fetch_cudnn_frontend), or set precision.attention_kernel=DIRECT, which is some "
      "hundred times slower");
}
#endif

template <typename Args>
void CheckAndRun(const Args& args, StreamView stream,
                 void (*run_direct)(const Args&, StreamView stream)) {
  CheckArgs(args);
  if (RunsDirect(args)) return run_direct(args, stream);
  const absl::Status status = RunCudnn(args, stream);
  if (!status.ok()) stream.Fail(status);
}

}  // namespace

void AttentionForward(const AttentionForwardArgs& args, StreamView stream) {
  CheckAndRun(args, stream, &DirectAttentionForward);
}
void AttentionBackward(const AttentionBackwardArgs& args, StreamView stream) {
  CheckAndRun(args, stream, &DirectAttentionBackward);
}

}  // namespace muster::kernels::cuda
