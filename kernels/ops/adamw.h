#pragma once
// AdamW (Loshchilov & Hutter, 2019) over flat ranges, all in one launch, in the accumulator dtype:
//   g = grad * grad_scale,  m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,
//   master -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + epsilon) + weight_decay master),
//   weight = cast(master).
// Fuses unscale, clip and cast: one pass, 28 bytes a weight in fp32. And, where asked for, digests
// (kernels/base/word_digest.h) of the state as it was read and as it is left: nothing may change it
// until the next update, whose read digest is then this one's other. They read no further memory,
// but for the weight where it is not the master.
#include "kernels/ops/op.h"
#include "kernels/ops/range_table.h"

namespace muster::kernels {

// One range, by its addresses: contiguous elements of equal weight decay.
struct AdamWRange {
  const void* grad;                  // accumulator dtype [count]
  void *master, *moment1, *moment2;  // in place, accumulator dtype [count]
  void* weight;                      // out [count], storage dtype; may be the same as master
  int64_t count;
  float weight_decay;
};

struct AdamWArgs {
  RangeTable table;                      // of AdamWRange; ranges do not overlap
  DType weight_dtype = DType::kFloat32;  // of all weights
  TensorView grad_scale;  // accumulator dtype [1], read in stream order: the clip coefficient. A
                          // value that is not finite or is 0 skips the update.
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f;
  int64_t step = 1;  // t, from 1: number of updates including this one
  // Accumulated, int64 [ranges, 2]: of the state read and left, the sums of unsigned digests of
  // master, moment1, moment2 and weight (if apart) times 1, 3, 5, 7. May be null. A skipped update
  // has them too.
  TensorView digests;
};
MUSTER_DECLARE_OP(AdamW)

}  // namespace muster::kernels
