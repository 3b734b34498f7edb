// The one dispatch point: an op runs where its stream is. Argument structs are copied into the
// stream; tensors must live until the stream has passed.
#include "kernels/base/error.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/balance.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/grouped_matmul.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/swiglu.h"
#include "kernels/ops/topk_route.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {
namespace {

// An op without a CUDA twin passes nullptr for it.
template <typename Args>
void Dispatch(const char* name, void (*cpu)(const Args&), void (*twin)(const Args&, StreamView),
              const Args& args, StreamView stream) {
  if (stream.device().type == DeviceType::kCpu) {
    stream.Enqueue([cpu, args] { cpu(args); });
  } else if (twin != nullptr) {
#ifdef MUSTER_WITH_CUDA
    cuda::MakeCurrent(stream.device());
#endif
    twin(args, stream);
  } else {
    stream.Fail(absl::UnimplementedError(std::string(name) + " has no CUDA kernel in this build"));
  }
}

}  // namespace

#ifdef MUSTER_WITH_CUDA
#define MUSTER_CUDA_TWIN(Name) &cuda::Name
#else
#define MUSTER_CUDA_TWIN(Name) nullptr
#endif
#define MUSTER_DISPATCH(Name)                                                      \
  void Name(const Name##Args& args, StreamView stream) {                           \
    Dispatch<Name##Args>(#Name, &cpu::Name, MUSTER_CUDA_TWIN(Name), args, stream); \
  }
// Ops whose CUDA kernel is still to be written.
#define MUSTER_DISPATCH_CPU_ONLY(Name)                              \
  void Name(const Name##Args& args, StreamView stream) {            \
    Dispatch<Name##Args>(#Name, &cpu::Name, nullptr, args, stream); \
  }

MUSTER_DISPATCH_CPU_ONLY(AdamW)
MUSTER_DISPATCH_CPU_ONLY(AttentionForward)
MUSTER_DISPATCH_CPU_ONLY(AttentionBackward)
MUSTER_DISPATCH_CPU_ONLY(AddCounts)
MUSTER_DISPATCH_CPU_ONLY(UpdateBalance)
MUSTER_DISPATCH_CPU_ONLY(Cast)
MUSTER_DISPATCH_CPU_ONLY(Fill)
MUSTER_DISPATCH_CPU_ONLY(FillNormal)
MUSTER_DISPATCH_CPU_ONLY(CrossEntropyStats)
MUSTER_DISPATCH_CPU_ONLY(CrossEntropyMergeStats)
MUSTER_DISPATCH_CPU_ONLY(CrossEntropyLoss)
MUSTER_DISPATCH_CPU_ONLY(CrossEntropyBackward)
MUSTER_DISPATCH_CPU_ONLY(EmbeddingForward)
MUSTER_DISPATCH_CPU_ONLY(EmbeddingBackward)
MUSTER_DISPATCH_CPU_ONLY(GeluForward)
MUSTER_DISPATCH_CPU_ONLY(GeluBackward)
MUSTER_DISPATCH_CPU_ONLY(GroupedMatmulForward)
MUSTER_DISPATCH_CPU_ONLY(GroupedMatmulBackwardInput)
MUSTER_DISPATCH_CPU_ONLY(GroupedMatmulBackwardWeight)
MUSTER_DISPATCH_CPU_ONLY(LayerNormForward)
MUSTER_DISPATCH_CPU_ONLY(LayerNormBackwardInput)
MUSTER_DISPATCH_CPU_ONLY(LayerNormBackwardWeight)
MUSTER_DISPATCH(Matmul)
MUSTER_DISPATCH_CPU_ONLY(SortByExpert)
MUSTER_DISPATCH_CPU_ONLY(DispatchRows)
MUSTER_DISPATCH_CPU_ONLY(CombineRows)
MUSTER_DISPATCH_CPU_ONLY(PermuteWeights)
MUSTER_DISPATCH_CPU_ONLY(MergeSources)
MUSTER_DISPATCH_CPU_ONLY(SumCounts)
MUSTER_DISPATCH_CPU_ONLY(GatherRows)
MUSTER_DISPATCH_CPU_ONLY(SumOfSquares)
MUSTER_DISPATCH_CPU_ONLY(Sum)
MUSTER_DISPATCH_CPU_ONLY(ColumnSum)
MUSTER_DISPATCH_CPU_ONLY(Add)
MUSTER_DISPATCH_CPU_ONLY(SumSlices)
MUSTER_DISPATCH_CPU_ONLY(ClipCoefficient)
MUSTER_DISPATCH(RmsNormForward)
MUSTER_DISPATCH(RmsNormBackwardInput)
MUSTER_DISPATCH(RmsNormBackwardWeight)
MUSTER_DISPATCH_CPU_ONLY(RopeTable)
MUSTER_DISPATCH_CPU_ONLY(Rope)
MUSTER_DISPATCH_CPU_ONLY(SwiGluForward)
MUSTER_DISPATCH_CPU_ONLY(SwiGluBackward)
MUSTER_DISPATCH_CPU_ONLY(TopkRouteForward)
MUSTER_DISPATCH_CPU_ONLY(TopkRouteBackward)

}  // namespace muster::kernels
