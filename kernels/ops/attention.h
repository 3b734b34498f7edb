#pragma once
// Causal grouped-query attention, blocked: the [S, S] matrix is never materialised.
//   out_i = sum_j softmax_j(scale q_i . k_j) v_j   over j with k_begin + j <= q_begin + i
// Query head h reads key/value head h / (H / K). The log-sum-exp of each row is kept in natural
// log; the backward recomputes probabilities from it (Dao et al., "FlashAttention", 2022). Token
// strides are free: q, k and v may be slices of one packed [B, S, (H + 2K) C] tensor, with
// contiguous heads [.., H, C] in the last two dims. Rows that see no key give 0 and lse = -inf, so
// that partial results over blocks of keys merge by log-sum-exp (ring attention).
// v and out have a head size of their own, Cv: Cv = C in most models, C = 192 and Cv = 128 in
// multi-head latent attention (DeepSeek-V2, 2024, section 2.1).
// FLOPs, causal: forward B H S^2 (C + Cv), backward B H S^2 (3 C + 2 Cv).
#include "kernels/ops/op.h"

namespace muster::kernels {

// What runs attention in bf16 on CUDA. In fp32 the direct kernels run, whatever this says.
enum class AttentionKernel : uint8_t {
  kCudnn,   // cuDNN's fused kernels; where they do not take the arguments, the stream fails
  kDirect,  // our own: any mask, strides and head size up to 256, some hundred times slower
};

struct AttentionForwardArgs {
  TensorView q;    // [B, Sq, H, C]
  TensorView k;    // [B, Sk, K, C]
  TensorView v;    // [B, Sk, K, Cv]
  TensorView out;  // [B, Sq, H, Cv]
  TensorView lse;  // out, accumulator dtype [B, H, Sq]
  float scale = 1.0f;
  bool causal = true;
  int64_t q_begin = 0;  // global position of row 0 of q, and of k
  int64_t k_begin = 0;
  AttentionKernel kernel = AttentionKernel::kCudnn;
};
MUSTER_DECLARE_OP(AttentionForward)

struct AttentionBackwardArgs {
  TensorView d_out;          // [B, Sq, H, Cv]
  TensorView q, k, v;        // as in the forward
  TensorView out, lse;       // as the forward left them (merged, if merged)
  TensorView d_q, d_k, d_v;  // out, shaped as q, k, v; may be slices of one packed tensor
  TensorView delta;          // workspace, accumulator dtype [B, H, Sq]: sum_c d_out out
  float scale = 1.0f;
  bool causal = true;
  int64_t q_begin = 0, k_begin = 0;
  // On CUDA with bf16: false lets cuDNN sum d_q in any order, which is faster; other bits each run.
  bool deterministic = true;
  AttentionKernel kernel = AttentionKernel::kCudnn;
};
MUSTER_DECLARE_OP(AttentionBackward)

}  // namespace muster::kernels
