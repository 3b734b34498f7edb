#pragma once
// All that the pipeline runner may ask of a model: the passes of one microbatch through this rank's
// layers. Input and weight gradients are separate calls, so that a schedule may put them apart;
// Backward does both layer by layer, which lets gradient buckets fill while it goes on.
//
// A stage keeps what a microbatch needs for its backward in one of `num_slots` slots; microbatch m
// uses slot m mod num_slots, and the schedule guarantees that two live microbatches never share
// one. `in` and `out` are hidden states [T, D]; the first stage ignores `in` (it reads its batch's
// tokens), the last ignores `out` (it computes the loss).
#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

namespace muster::parallel {

class Stage {
 public:
  virtual ~Stage() = default;
  virtual absl::Status Forward(int microbatch, kernels::TensorView in, kernels::TensorView out,
                               kernels::StreamView compute) = 0;
  virtual absl::Status BackwardInput(int microbatch, kernels::TensorView d_out,
                                     kernels::TensorView d_in, kernels::StreamView compute) = 0;
  virtual absl::Status BackwardWeight(int microbatch, kernels::StreamView compute) = 0;
  virtual absl::Status Backward(int microbatch, kernels::TensorView d_out, kernels::TensorView d_in,
                                kernels::StreamView compute) = 0;
};

}  // namespace muster::parallel
