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
      slots_(stage, options.recompute) {}

void Mlp::PlanMemory(ArenaPlan& plan) {
  PlanActivations(plan);
  const ArenaPlan::ScratchScope scratch(plan);
  PlanScratch(plan);
}

void Mlp::PlanActivations(ArenaPlan& plan) {
  const int64_t T = stage_.shape.tokens();
  slots_.ForEach([&](Activations& kept, const std::string& set, Lifetime lifetime) {
    plan.Add(&kept.up, name_ + "." + UpName(stage_.config) + ", " + set, stage_.shape.dtype,
             {T, up_width_}, lifetime);
    plan.Add(&kept.activated, name_ + ".activated, " + set, stage_.shape.dtype, {T, ffn_hidden_},
             lifetime);
  });
}

void Mlp::PlanScratch(ArenaPlan& plan) {
  plan.Add(&d_activated_, name_ + ".d_activated", stage_.shape.dtype,
           {stage_.shape.tokens(), ffn_hidden_}, Lifetime::kScratch);
}

void Mlp::ForwardHidden(const Pass& pass, TensorView x_TD) {
  const Activations& kept = slots_[pass];
  up_.Forward(x_TD, kept.up, pass.compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluForward({.gate_up = kept.up, .out = kept.activated}, pass.compute);
  } else {
    kernels::GeluForward({.x = kept.up, .out = kept.activated}, pass.compute);
  }
}

absl::Status Mlp::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  ForwardHidden(pass, x_TD);
  down_.Forward(slots_[pass].activated, y_TD, pass.compute);
  return absl::OkStatus();
}

absl::Status Mlp::Recompute(const Pass& pass, TensorView x_TD) {
  if (slots_.recomputed()) ForwardHidden(pass, x_TD);
  return absl::OkStatus();
}

absl::Status Mlp::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD,
                                bool accumulate) {
  const Activations& kept = slots_[pass];
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
  const Activations& kept = slots_[pass];
  down_.BackwardWeight(kept.activated, d_y_TD, pass.compute);
  up_.BackwardWeight(x_TD, kept.up, pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
