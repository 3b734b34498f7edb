#include "models/mlp.h"

#include "kernels/ops/gelu.h"
#include "kernels/ops/swiglu.h"

namespace muster::models {

const char* UpName(const ModelConfig& config) {
  return config.activation() == SWIGLU ? "gate_up" : "up";
}

int64_t UpWidth(const ModelConfig& config, int64_t ffn_hidden) {
  return config.activation() == SWIGLU ? 2 * ffn_hidden : ffn_hidden;
}

Mlp::Mlp(StageContext& stage, const std::string& name, const Options& options)
    : stage_(stage),
      name_(name),
      ffn_hidden_(options.ffn_hidden),
      up_width_(UpWidth(stage.config, options.ffn_hidden)),
      up_(stage, name + "." + UpName(stage.config),
          {.in = stage.config.hidden(),
           .out = up_width_,
           .bias = options.bias,
           .init_std = stage.config.init_std()}),
      down_(stage, name + ".down",
            {.in = options.ffn_hidden,
             .out = stage.config.hidden(),
             .bias = options.bias,
             .init_std = ResidualInitStd(stage.config)}),
      slots_(static_cast<size_t>(stage.shape.num_slots)) {}

void Mlp::PlanMemory(ArenaPlan& plan) {
  const int64_t T = stage_.shape.tokens();
  for (int slot = 0; slot < stage_.shape.num_slots; ++slot) {
    Activations& kept = slots_[static_cast<size_t>(slot)];
    plan.Add(&kept.up, SlotName(name_ + "." + UpName(stage_.config), slot), stage_.shape.dtype,
             {T, up_width_}, Lifetime::kActivation);
    plan.Add(&kept.activated, SlotName(name_ + ".activated", slot), stage_.shape.dtype,
             {T, ffn_hidden_}, Lifetime::kActivation);
  }
  const ArenaPlan::ScratchScope scratch(plan);
  plan.Add(&d_activated_, name_ + ".d_activated", stage_.shape.dtype, {T, ffn_hidden_},
           Lifetime::kScratch);
}

absl::Status Mlp::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  const Activations& kept = slots_[static_cast<size_t>(pass.slot)];
  up_.Forward(x_TD, kept.up, pass.compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluForward({.gate_up = kept.up, .out = kept.activated}, pass.compute);
  } else {
    kernels::GeluForward({.x = kept.up, .out = kept.activated}, pass.compute);
  }
  down_.Forward(kept.activated, y_TD, pass.compute);
  return absl::OkStatus();
}

absl::Status Mlp::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD,
                                bool accumulate) {
  const Activations& kept = slots_[static_cast<size_t>(pass.slot)];
  down_.BackwardInput(d_y_TD, d_activated_, pass.compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluBackward({.d_out = d_activated_, .gate_up = kept.up, .d_gate_up = kept.up},
                            pass.compute);
  } else {
    kernels::GeluBackward({.d_out = d_activated_, .x = kept.up, .d_x = kept.up}, pass.compute);
  }
  up_.BackwardInput(kept.up, d_x_TD, pass.compute, accumulate);
  return absl::OkStatus();
}

absl::Status Mlp::BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) {
  const Activations& kept = slots_[static_cast<size_t>(pass.slot)];
  down_.BackwardWeight(kept.activated, d_y_TD, pass.compute);
  up_.BackwardWeight(x_TD, kept.up, pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
