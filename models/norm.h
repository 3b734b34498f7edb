#pragma once
// RMSNorm or LayerNorm, as the config says, with the residual addition in front of it: keeps, in
// each slot, the residual stream h and the normalised y, or less where it is recomputed.
#include <optional>
#include <string>

#include "models/activation_slots.h"
#include "models/layer.h"

namespace muster::models {

// What a norm keeps for the backward; the rest is recomputed.
enum class NormKeeps { kAll, kInput, kNothing };  // h and y; h; neither

class NormLayer {
 public:
  NormLayer(StageContext& stage, const std::string& name, NormKeeps keeps = NormKeeps::kAll);
  NormLayer(const NormLayer&) = delete;
  NormLayer& operator=(const NormLayer&) = delete;
  void PlanMemory(ArenaPlan& plan);

  // h = x + delta, y = norm(h). Without delta, x must be h itself.
  void Forward(const Pass& pass, TensorView x_TD, TensorView delta_TD);
  // y = norm(h) again, where h is kept and y is not. Else nothing.
  void Recompute(const Pass& pass);
  const TensorView& h_TD(const Pass& pass) const { return streams_[pass].h_TD; }
  const TensorView& y_TD(const Pass& pass) const { return outputs_[pass]; }
  const TensorView& y_TD(int slot) const { return y_TD(Pass{.slot = slot}); }  // in the forward

  // d_h = gradient through the norm + d_residual (null: none); d_h may be d_residual or d_y. The
  // weights' gradients are added in the same pass over memory, and d_y need not be kept for them.
  void Backward(const Pass& pass, TensorView d_y_TD, TensorView d_residual_TD, TensorView d_h_TD);
  // When the schedule comes to this layer's weights.
  void Ready(StreamView compute) const;

 private:
  struct Stream {
    TensorView h_TD;
    TensorView mean_T, rstd_T;  // accumulator dtype; mean only with LayerNorm
  };
  const StageContext& stage_;
  const std::string name_;
  Weight weight_;
  std::optional<Weight> bias_;
  ActivationSlots<Stream> streams_;
  ActivationSlots<TensorView> outputs_;  // y_TD
};

}  // namespace muster::models
