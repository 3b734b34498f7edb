#pragma once
// One transformer block, pre-norm:
//   h = h + delta,  delta = attention(norm(h)),  h = h + delta,  delta = mlp or moe(norm(h))
// The residual stream travels as a pair whose sum it is, (h, delta), so that each addition is fused
// into the norm that follows. Both halves of a pair have the same gradient: one tensor.
#include <memory>
#include <string>
#include <vector>

#include "models/attention.h"
#include "models/layer.h"
#include "models/moe.h"
#include "models/norm.h"

namespace muster::models {

class Block {
 public:
  // `layer` counts all layers of the model, `moe_layer` those with experts.
  Block(StageContext& stage, int layer, int moe_layer, const TensorView& rope_table,
        const BalanceState& balance);
  void PlanMemory(ArenaPlan& plan);

  // From (h, delta), delta null in the first block, to (h_TD(slot), delta_out); delta_out may be
  // delta itself.
  absl::Status Forward(const Pass& pass, TensorView h_TD, TensorView delta_TD,
                       TensorView delta_out_TD);
  // Where the first block wants its h.
  const TensorView& input_TD(int slot) const { return attention_norm_.h_TD({.slot = slot}); }
  // In the forward; a block that is recomputed does not keep it.
  const TensorView& h_TD(int slot) const { return feed_forward_norm_.h_TD({.slot = slot}); }

  // Both gradients, layer by layer; d_TD is the pair's gradient above the block, then below it.
  absl::Status Backward(const Pass& pass, TensorView d_TD);
  // Apart, with split_backward: d_out must stay as it is until BackwardWeight.
  absl::Status BackwardInput(const Pass& pass, TensorView d_out_TD, TensorView d_in_TD);
  absl::Status BackwardWeight(const Pass& pass, TensorView d_out_TD);

 private:
  // Before the backward of a layer, or of the whole block: what it reads and the forward did not
  // keep.
  absl::Status RecomputeBlock(const Pass& pass);
  absl::Status RecomputeAttention(const Pass& pass);
  absl::Status RecomputeFeedForward(const Pass& pass);
  // Calls made while it lives are written down as this layer's.
  parallel::CollectiveLog::At Place() const;

  const StageContext& stage_;
  const int layer_;
  const std::string name_;
  NormLayer attention_norm_;
  Attention attention_;
  NormLayer feed_forward_norm_;
  std::unique_ptr<Layer> feed_forward_;
  TensorView d_norm_TD_;  // scratch: gradient of a norm's output; in a
                          // recomputation, what attention adds to the stream
  std::vector<TensorView>
      d_middle_TD_;  // by gradient slot, with split_backward: between the layers
};

}  // namespace muster::models
