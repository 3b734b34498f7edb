#pragma once
// All that the pipeline runner may ask of a model: the passes of one microbatch through one of the
// stages that this rank holds. Input and weight gradients are separate calls, so that a schedule
// may put them apart; Backward does both layer by layer, which lets gradient buckets fill while it
// goes on.
//
// A stage keeps what a microbatch needs for its backward in one of its slots; microbatch m uses
// slot m mod slots (StageSlots), and the schedule guarantees that two live microbatches never share
// one. `in` and `out` are the residual stream between two stages, [stream tokens, D]; `d_out` and
// `d_in` its gradients. They belong to the runner: `in` and `d_out` are valid during the call only,
// `out` and `d_in` are to be written by it. The first stage gets no `in` and `d_in` (it reads its
// batch's tokens), the last no `out` and `d_out` (it computes the loss).
#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

namespace muster::parallel {

class Stage {
 public:
  virtual ~Stage() = default;
  virtual absl::Status Forward(int stage, int microbatch, kernels::TensorView in,
                               kernels::TensorView out, kernels::StreamView compute) = 0;
  virtual absl::Status BackwardInput(int stage, int microbatch, kernels::TensorView d_out,
                                     kernels::TensorView d_in, kernels::StreamView compute) = 0;
  virtual absl::Status BackwardWeight(int stage, int microbatch, kernels::StreamView compute) = 0;
  virtual absl::Status Backward(int stage, int microbatch, kernels::TensorView d_out,
                                kernels::TensorView d_in, kernels::StreamView compute) = 0;
  // Forward only: keeps nothing. No microbatch may be alive.
  virtual absl::Status Evaluate(int stage, int microbatch, kernels::TensorView in,
                                kernels::TensorView out, kernels::StreamView compute) = 0;
};

}  // namespace muster::parallel
