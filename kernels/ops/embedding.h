#pragma once
// Token (and learned position) embedding. The table may be a shard of the vocabulary: rows
// [vocab_begin, vocab_begin + V); a token outside it contributes zero, so that shards add up.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct EmbeddingForwardArgs {
  TensorView tokens;          // int32 [T]
  TensorView table;           // [V, D]
  TensorView position_table;  // optional [P, D]
  TensorView positions;       // int32 [T], with position_table
  TensorView out;             // [T, D]: table[token] + position_table[position]
  int64_t vocab_begin = 0;
};
MUSTER_DECLARE_OP(EmbeddingForward)

// Sums in token order, so that the result does not depend on how many times a token occurs apart.
struct EmbeddingBackwardArgs {
  TensorView d_out;    // [T, D]
  TensorView indices;  // int32 [T]: the tokens, or the positions for the position table
  TensorView d_table;  // accumulated, accumulator dtype [V, D]
  int64_t vocab_begin = 0;
};
MUSTER_DECLARE_OP(EmbeddingBackward)

}  // namespace muster::kernels
