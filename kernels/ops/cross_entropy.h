#pragma once
// Cross-entropy of a next-token prediction, over a vocabulary that may be sharded. Two passes over
// the logits in all:
//   1. CrossEntropyStats: per token, over this shard, max, sum of exp(logit - max), and the
//   target's
//      logit (-inf elsewhere). Shards merge by max and scaled sum (CrossEntropyMergeStats).
//   2. CrossEntropyBackward: writes the gradient over the logits,
//        d_logit = (softmax - onehot(target)) * scale.
// The loss of a token is log(sum) + max - target logit. A token whose target is negative (-100 by
// convention) counts neither in the loss nor in the gradient. Rows of logits may be strided (the
// last dim is contiguous): an odd vocabulary then starts each row where matrix products want it.
#include "kernels/ops/op.h"

namespace muster::kernels {

struct CrossEntropyStatsArgs {
  TensorView logits;   // [T, V]
  TensorView targets;  // int32 [T]; ids of the whole vocabulary
  TensorView stats;    // out, accumulator dtype [T, 3]: max, sum of exponentials, target logit
  int64_t vocab_begin = 0;
};
MUSTER_DECLARE_OP(CrossEntropyStats)

// Merges the statistics of n shards into one.
struct CrossEntropyMergeStatsArgs {
  TensorView shards;  // accumulator dtype [n, T, 3]
  TensorView stats;   // out, accumulator dtype [T, 3]
};
MUSTER_DECLARE_OP(CrossEntropyMergeStats)

struct CrossEntropyLossArgs {
  TensorView stats;    // accumulator dtype [T, 3], merged
  TensorView targets;  // int32 [T]
  TensorView losses;   // out, accumulator dtype [T]; 0 where the target is negative
};
MUSTER_DECLARE_OP(CrossEntropyLoss)

struct CrossEntropyBackwardArgs {
  TensorView logits;   // in place [T, V]: becomes the gradient
  TensorView targets;  // int32 [T]
  TensorView stats;    // accumulator dtype [T, 3], merged
  float scale = 1.0f;  // 1 / valid tokens of the global batch
  int64_t vocab_begin = 0;
};
MUSTER_DECLARE_OP(CrossEntropyBackward)

}  // namespace muster::kernels
