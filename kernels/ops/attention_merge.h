#pragma once
// Joins attention over two disjoint sets of keys. With the log-sum-exps l of both, row by row,
//   L = log(e^l + e^part_l),   out = e^(l - L) out + e^(part_l - L) part
// is what attention over the union gives (Dao et al., "FlashAttention", 2022, section 3.1; as
// devices pass keys around: Liu et al., "Ring Attention with Blockwise Transformers", 2023). Rows
// that saw no key on one side (-infinity) take the other side's result.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct AttentionMergeArgs {
  TensorView part;      // [B, N, H, C], contiguous heads, C that of v; fp32, bf16 or fp64
  TensorView part_lse;  // accumulator dtype [B, H, N]
  TensorView out;       // in place, accumulator dtype [B, S, H, C], contiguous heads
  TensorView lse;       // in place, accumulator dtype [B, H, S]
  int64_t begin = 0;    // rows [begin, begin + N) of out and lse are joined with part
};
MUSTER_DECLARE_OP(AttentionMerge)

}  // namespace muster::kernels
