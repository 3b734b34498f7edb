#pragma once
// RMSNorm or LayerNorm, as the config says, with the residual addition in front of it: keeps, in
// each slot, the residual stream h and the normalised y.
#include <optional>
#include <string>
#include <vector>

#include "models/layer.h"

namespace muster::models {

class NormLayer {
 public:
  NormLayer(StageContext& stage, const std::string& name);
  NormLayer(const NormLayer&) = delete;
  NormLayer& operator=(const NormLayer&) = delete;
  void PlanMemory(ArenaPlan& plan);

  // h = x + delta, y = norm(h). Without delta, x must be h(slot) itself.
  void Forward(const Pass& pass, TensorView x_TD, TensorView delta_TD);
  const TensorView& h_TD(int slot) const { return slots_[static_cast<size_t>(slot)].h_TD; }
  const TensorView& y_TD(int slot) const { return slots_[static_cast<size_t>(slot)].y_TD; }

  // d_h = gradient through the norm + d_residual (null: none); d_h may be d_residual or d_y. The
  // weights' gradients are added here too: they are cheap, and d_y need not be kept for them.
  void Backward(const Pass& pass, TensorView d_y_TD, TensorView d_residual_TD, TensorView d_h_TD);
  // When the schedule comes to this layer's weights.
  void Ready(StreamView compute) const;

 private:
  struct Activations {
    TensorView h_TD, y_TD;
    TensorView mean_T, rstd_T;  // accumulator dtype; mean only with LayerNorm
  };
  const StageContext& stage_;
  const std::string name_;
  Weight weight_;
  std::optional<Weight> bias_;
  std::vector<Activations> slots_;
};

}  // namespace muster::models
