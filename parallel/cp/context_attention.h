#pragma once
// Causal attention of one layer whose sequences are cut over the context group (see
// parallel/cp/sequence_chunks.h for the cut). Queries stay, keys and values travel. Two ways:
//   ring         parallel/cp/ring_attention.h: blocks go round, hidden behind the attention
//   all-gather   parallel/cp/gathered_attention.h: all keys and values at once, for short sequences
//                or few key/value heads
// Both give what one rank gives up to the order of sums, and, if they are to be deterministic, the
// same bits on every run.
//
// Shape letters: B sequences, S tokens of a sequence on this rank, H query heads, K key/value
// heads, C head size.
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/ops/attention.h"
#include "kernels/tensor/arena.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

struct ContextAttentionShape {
  int64_t sequences = 1, tokens = 0;  // B, S: two chunks, so even
  int64_t heads = 1, kv_heads = 1, head_size = 0;
  kernels::DType dtype = kernels::DType::kFloat32;
  kernels::AttentionKernel kernel = kernels::AttentionKernel::kCudnn;
};

// Tensors are of the shape's dtype, with contiguous heads and free strides of tokens and sequences:
// slices of packed tensors will do.
struct ContextForwardArgs {
  kernels::TensorView q;    // [B, S, H, C]
  kernels::TensorView kv;   // [B, S, 2 K, C]: keys, then values
  kernels::TensorView out;  // [B, S, H, C]
  kernels::TensorView lse;  // out, accumulator dtype [B, H, S]; its order is the way's own
  float scale = 1.0f;
};
struct ContextBackwardArgs {
  kernels::TensorView d_out;     // [B, S, H, C]
  kernels::TensorView q, kv;     // as in the forward
  kernels::TensorView out, lse;  // as the forward left them
  kernels::TensorView d_q;       // out [B, S, H, C]
  kernels::TensorView d_kv;      // out [B, S, 2 K, C]
  float scale = 1.0f;
  bool deterministic = true;  // see kernels/ops/attention.h
};

class ContextAttention {
 public:
  virtual ~ContextAttention() = default;
  // Reserves scratch, used inside the calls only. A scratch scope must be open.
  virtual void PlanMemory(kernels::ArenaPlan& plan, const std::string& name) = 0;
  // All ranks of the context group call these in the same order. Errors: those of the transfers.
  virtual absl::Status Forward(const ContextForwardArgs& args, kernels::StreamView compute) = 0;
  virtual absl::Status Backward(const ContextBackwardArgs& args, kernels::StreamView compute) = 0;
};

// `gather`: the all-gather way. The mesh must outlive it.
std::unique_ptr<ContextAttention> MakeContextAttention(const ContextAttentionShape& shape,
                                                       const Mesh& mesh, bool gather);

}  // namespace muster::parallel
