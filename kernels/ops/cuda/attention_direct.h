#pragma once
// Attention for what cuDNN does not do: fp32, and bf16 with any mask, head size and stride. Each
// warp takes one row at a time, in plain fp32 arithmetic: right, but some hundred times slower than
// the fused kernels. Head sizes up to kMaxDirectHeadSize. Deterministic: no atomics.
#include "absl/status/status.h"
#include "kernels/ops/attention.h"

namespace muster::kernels::cuda {

constexpr int64_t kMaxDirectHeadSize = 256;

// Errors: a larger head, a failed launch.
absl::Status DirectAttentionForward(const AttentionForwardArgs& args, StreamView stream);
absl::Status DirectAttentionBackward(const AttentionBackwardArgs& args, StreamView stream);

}  // namespace muster::kernels::cuda
