#include "kernels/ops/attention_support.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace muster::kernels {

std::string HeadSizeProblem(AttentionKernel kernel, DType dtype, int64_t head_size,
                            int64_t value_head_size) {
  const bool too_large = std::max(head_size, value_head_size) > kMaxAttentionHeadSize;
  if (kernel == AttentionKernel::kDirect || dtype != DType::kBFloat16) {
    return too_large
               ? absl::StrCat("the direct kernels take head sizes up to ", kMaxAttentionHeadSize)
               : "";
  }
  if (too_large || head_size % kFusedHeadSizeUnit != 0 ||
      value_head_size % kFusedHeadSizeUnit != 0) {
    return absl::StrCat("cuDNN takes head sizes that are multiples of ", kFusedHeadSizeUnit,
                        " up to ", kMaxAttentionHeadSize);
  }
  if (head_size == value_head_size || (head_size == 192 && value_head_size == 128)) return "";
  return "cuDNN takes values of another head size only as 128 with 192 for queries and keys";
}

std::string CudnnVersion() {
#ifdef MUSTER_WITH_CUDNN
  return cuda::LoadedCudnnVersion();
#else
  return "";
#endif
}

}  // namespace muster::kernels
