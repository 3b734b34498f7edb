#pragma once
// The sizes for which a stage plans its memory.
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/ops/attention.h"

namespace muster::models {

// Modules whose activations are not kept for the backward, which runs their forward again: shared
// bytes instead of some for every microbatch slot. Results are the same bits.
struct Recompute {
  bool attention = false;  // queries, keys, values and heads
  bool mlp = false;        // of dense blocks
  bool moe = false;        // rows and hidden layers of experts; routing is kept, not repeated
  bool norm = false;       // outputs of a block's norms; their input is kept
  bool block = false;      // all of a block but its input, and the routing
};

struct StageShape {
  int64_t sequences = 1;                            // of one microbatch on this rank
  int64_t sequence_length = 0;                      // S on this rank; T = sequences * S
  int num_microbatches = 1;                         // a step, on this rank
  int num_slots = 1;                                // microbatches alive at once in a stage
  kernels::DType dtype = kernels::DType::kFloat32;  // of weights and activations
  // The schedule calls BackwardInput and BackwardWeight apart: output gradients are kept between.
  bool split_backward = false;
  int num_gradient_slots = 0;  // with it: microbatches between the two at once; 0: num_slots
  Recompute recompute;
  // Context parallelism by all keys at once, instead of a ring (parallel/cp/context_attention.h).
  bool gather_context = false;
  bool deterministic_attention = true;  // the backward's sums, on GPUs
  kernels::AttentionKernel attention_kernel = kernels::AttentionKernel::kCudnn;  // on GPUs, in bf16
  // The output projection runs over chunks of tokens whose logits fit here (at least one token).
  int64_t logits_bytes = int64_t{512} << 20;
  // Ranks over which the rows of the residual stream are cut: the tensor group's with sequence
  // parallelism, else 1. A divisor of tokens().
  int stream_ranks = 1;
  int64_t tokens() const { return sequences * sequence_length; }
  // Rows of the residual stream on this rank, between blocks and so between stages.
  int64_t stream_tokens() const { return tokens() / stream_ranks; }
};

// One stage of a pipeline: layers [first_layer, first_layer + num_layers), after the embedding in
// the first stage, before the final norm and the output projection in the last.
struct StageSpec {
  int stage = 0;  // of the pipeline
  int first_layer = 0, num_layers = 0;
  bool first = true, last = true;
  int num_slots = 1;           // microbatches alive at once
  int num_gradient_slots = 1;  // and between the halves of a split backward
  bool tie_parts = false;      // tied embeddings: the other user of the table is on another rank
};

}  // namespace muster::models
