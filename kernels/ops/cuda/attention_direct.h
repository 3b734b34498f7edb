#pragma once
// Attention for what cuDNN does not do: fp32, and bf16 with any mask, head size and stride. Each
// warp takes one row at a time, in plain fp32 arithmetic: right, but some hundred times slower than
// the fused kernels. Head sizes up to kMaxAttentionHeadSize. Deterministic: no atomics.
#include "kernels/ops/attention.h"

namespace muster::kernels::cuda {

// Errors, left in the stream: a larger head, fp64, a failed launch.
void DirectAttentionForward(const AttentionForwardArgs& args, StreamView stream);
void DirectAttentionBackward(const AttentionBackwardArgs& args, StreamView stream);

}  // namespace muster::kernels::cuda
