#pragma once
// Rotary position embedding (Su et al., 2021), in place, in the half-rotation layout of Llama and
// Hugging Face: channel c < C/2 pairs with c + C/2,
//   x_c' = x_c cos - x_{c+C/2} sin,   x_{c+C/2}' = x_{c+C/2} cos + x_c sin,
// with angle position * theta^(-2c/C). The backward rotates by the negative angle.
#include "kernels/ops/op.h"

namespace muster::kernels {

// Fills the table of cosines and sines once, before step 1 (fp64 arithmetic, rounded).
struct RopeTableArgs {
  TensorView table;  // out, accumulator dtype [P, C / 2, 2]: cos, sin of positions 0 .. P-1
  double theta = 10000.0;
};
MUSTER_DECLARE_OP(RopeTable)

struct RopeArgs {
  TensorView x;          // in place [T, H, C]; token stride free, heads contiguous
  TensorView positions;  // int32 [T]: global position of each token
  TensorView table;      // accumulator dtype [P, C / 2, 2]
  bool backward = false;
};
MUSTER_DECLARE_OP(Rope)

}  // namespace muster::kernels
