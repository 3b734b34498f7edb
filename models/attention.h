#pragma once
// Causal grouped-query self-attention: fused projection to queries, keys and values
// [T, (H + 2K) C], rotary positions (if the config wants them), attention, output projection. Over
// the tensor group each rank has its own heads: H and K count those. Over the
// context group it has S of a sequence's tokens, and keys and values travel.
#include <memory>
#include <string>
#include <vector>

#include "models/activation_slots.h"
#include "models/layer.h"
#include "models/linear.h"
#include "parallel/cp/context_attention.h"

namespace muster::models {

class Attention : public Layer {
 public:
  // `rope_table` (filled by the stage, [max positions, C / 2, 2]) must outlive the layer.
  Attention(StageContext& stage, const std::string& name, const TensorView& rope_table);
  void PlanMemory(ArenaPlan& plan) override;
  absl::Status Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) override;
  absl::Status Recompute(const Pass& pass, TensorView x_TD) override;
  absl::Status BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) override;
  absl::Status BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) override;

 private:
  struct Activations {
    TensorView qkv;    // [T, (H + 2K) C], rotated
    TensorView heads;  // [T, H C]: what attention gave
    TensorView lse;    // accumulator dtype [B, H, S]
  };
  // Up to the input of the output projection.
  absl::Status ForwardHeads(const Pass& pass, TensorView x_TD);
  // Queries and keys, [T, H + K, C], for the rotation.
  void Rotate(const TensorView& qkv, const Pass& pass, bool backward) const;

  absl::Status Attend(const Activations& kept, StreamView compute);
  absl::Status AttendBackward(const Activations& kept, TensorView d_qkv, StreamView compute);

  const StageContext& stage_;
  const std::string name_;
  const TensorView& rope_table_;
  Linear qkv_, output_;
  const std::unique_ptr<parallel::ContextAttention> context_;  // null: sequences are whole
  ActivationSlots<Activations> slots_;
  std::vector<TensorView> d_qkv_;  // by gradient slot
  TensorView d_heads_, delta_;     // scratch
  AllRows all_;                    // scratch
};

}  // namespace muster::models
