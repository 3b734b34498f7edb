// The one dispatch point: an op runs where its stream is. Argument structs are copied into the
// stream; tensors must live until the stream has passed.
#include <type_traits>

#include "kernels/base/error.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/attention_merge.h"
#include "kernels/ops/balance.h"
#include "kernels/ops/capacity.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/copy_rows.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/digest.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/grouped_matmul.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/matmul_notes.h"
#include "kernels/ops/op_work.h"
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
  const TraceScope scope(stream, name, [&] {
    TracedWork work = WorkOf(args);
    work.kind = TraceKind::kOperator;
    return work;
  });
  if constexpr (std::is_same_v<Args, MatmulArgs>) {
    if (stream.notes() != nullptr) stream.notes()->Note(args);
  }
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

MUSTER_DISPATCH(AdamW)
MUSTER_DISPATCH(AttentionForward)
MUSTER_DISPATCH(AttentionBackward)
MUSTER_DISPATCH(AttentionMerge)
MUSTER_DISPATCH(AddCounts)
MUSTER_DISPATCH(UpdateBalance)
MUSTER_DISPATCH(AdmitByCapacity)
MUSTER_DISPATCH(Cast)
MUSTER_DISPATCH(CopyRows)
MUSTER_DISPATCH(Fill)
MUSTER_DISPATCH(FillNormal)
MUSTER_DISPATCH(CrossEntropyStats)
MUSTER_DISPATCH(CrossEntropyMergeStats)
MUSTER_DISPATCH(CrossEntropyLoss)
MUSTER_DISPATCH(CrossEntropyBackward)
MUSTER_DISPATCH(Digest)
MUSTER_DISPATCH(EmbeddingForward)
MUSTER_DISPATCH(EmbeddingBackward)
MUSTER_DISPATCH(GeluForward)
MUSTER_DISPATCH(GeluBackward)
MUSTER_DISPATCH(GroupedMatmulForward)
MUSTER_DISPATCH(GroupedMatmulBackwardInput)
MUSTER_DISPATCH(GroupedMatmulBackwardWeight)
MUSTER_DISPATCH(LayerNormForward)
MUSTER_DISPATCH(LayerNormBackward)
MUSTER_DISPATCH(Matmul)
MUSTER_DISPATCH(SortByExpert)
MUSTER_DISPATCH(DispatchRows)
MUSTER_DISPATCH(CombineRows)
MUSTER_DISPATCH(PermuteWeights)
MUSTER_DISPATCH(MergeSources)
MUSTER_DISPATCH(SumCounts)
MUSTER_DISPATCH(GatherRows)
MUSTER_DISPATCH(SumOfSquares)
MUSTER_DISPATCH(Sum)
MUSTER_DISPATCH(ColumnSum)
MUSTER_DISPATCH(Add)
MUSTER_DISPATCH(SumSlices)
MUSTER_DISPATCH(ClipCoefficient)
MUSTER_DISPATCH(RmsNormForward)
MUSTER_DISPATCH(RmsNormBackward)
MUSTER_DISPATCH(RopeTable)
MUSTER_DISPATCH(Rope)
MUSTER_DISPATCH(SwiGluForward)
MUSTER_DISPATCH(SwiGluBackward)
MUSTER_DISPATCH(TopkRouteForward)
MUSTER_DISPATCH(TopkRouteBackward)
MUSTER_DISPATCH(GroupLoad)

}  // namespace muster::kernels
