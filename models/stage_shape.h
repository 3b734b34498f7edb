#pragma once
// The sizes for which a stage plans its memory.
#include <cstdint>

#include "kernels/base/dtype.h"

namespace muster::models {

struct StageShape {
  int64_t sequences = 1;                            // of one microbatch on this rank
  int64_t sequence_length = 0;                      // S; T = sequences * S
  int num_microbatches = 1;                         // a step, on this rank
  int num_slots = 1;                                // microbatches alive at once
  kernels::DType dtype = kernels::DType::kFloat32;  // of weights and activations
  // The schedule calls BackwardInput and BackwardWeight apart: output gradients are kept between.
  bool split_backward = false;
  // The output projection runs over chunks of tokens whose logits fit here (at least one token).
  int64_t logits_bytes = int64_t{512} << 20;
  int64_t tokens() const { return sequences * sequence_length; }
};

}  // namespace muster::models
