#include "models/mlp.h"

#include "kernels/ops/gelu.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/swiglu.h"

namespace muster::models {

const char* UpName(const ModelConfig& config) {
  return config.activation() == SWIGLU ? "gate_up" : "up";
}

int64_t UpWidth(const ModelConfig& config, int64_t ffn_hidden) {
  return config.activation() == SWIGLU ? 2 * ffn_hidden : ffn_hidden;
}

std::vector<int64_t> UpSegments(const ModelConfig& config, int64_t ffn_hidden) {
  if (config.activation() == SWIGLU) return {ffn_hidden, ffn_hidden};
  return {ffn_hidden};
}

Mlp::Mlp(StageContext& stage, const std::string& name, const Options& options)
    : stage_(stage),
      name_(name),
      ffn_hidden_(stage.PartOf(options.ffn_hidden)),
      up_width_(UpWidth(stage.config, ffn_hidden_)),
      up_(stage, name + "." + UpName(stage.config),
          {.in = stage.config.hidden(),
           .out = UpWidth(stage.config, options.ffn_hidden),
           .bias = options.bias,
           .init_std = stage.config.init_std(),
           .cut = Linear::Cut::kColumns,
           .segments = UpSegments(stage.config, options.ffn_hidden)}),
      down_(stage, name + ".down",
            {.in = options.ffn_hidden,
             .out = stage.config.hidden(),
             .bias = options.bias,
             .init_std = ResidualInitStd(stage.config),
             .cut = Linear::Cut::kRows}),
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
  all_.AddTo(plan, name_, stage_);
  if (!stage_.tensor().sequence_parallel()) return;
  plan.Add(&d_x_TD_, name_ + ".d_x", stage_.shape.dtype,
           {stage_.shape.stream_tokens(), stage_.config.hidden()}, Lifetime::kScratch);
}

absl::Status Mlp::ForwardHidden(const Pass& pass, TensorView x_TD) {
  const Activations& kept = slots_[pass];
  ASSIGN_OR_RETURN(const TensorView all_x_TD,
                   stage_.tensor().Gather(x_TD, all_.x_TD, pass.compute));
  up_.Forward(all_x_TD, kept.up, pass.compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluForward({.gate_up = kept.up, .out = kept.activated}, pass.compute);
  } else {
    kernels::GeluForward({.x = kept.up, .out = kept.activated}, pass.compute);
  }
  return absl::OkStatus();
}

absl::Status Mlp::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  RETURN_IF_ERROR(ForwardHidden(pass, x_TD));
  const parallel::TensorParallel tensor = stage_.tensor();
  const TensorView partial_TD = tensor.Partial(y_TD, all_.y_TD);
  down_.Forward(slots_[pass].activated, partial_TD, pass.compute);
  return tensor.Reduce(partial_TD, y_TD, pass.compute);
}

absl::Status Mlp::Recompute(const Pass& pass, TensorView x_TD) {
  return slots_.recomputed() ? ForwardHidden(pass, x_TD) : absl::OkStatus();
}

absl::Status Mlp::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD,
                                bool accumulate) {
  const Activations& kept = slots_[pass];
  const parallel::TensorParallel tensor = stage_.tensor();
  ASSIGN_OR_RETURN(const TensorView all_d_y_TD, tensor.Gather(d_y_TD, all_.y_TD, pass.compute));
  down_.BackwardInput(all_d_y_TD, d_activated_, pass.compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluBackward({.d_out = d_activated_, .gate_up = kept.up, .d_gate_up = kept.up},
                            pass.compute);
  } else {
    kernels::GeluBackward({.d_out = d_activated_,
                           .x = kept.up,
                           .d_x = kept.up,
                           .d_bias = AddsUpBias() ? up_.bias_gradient() : TensorView()},
                          pass.compute);
  }
  if (tensor.size() == 1) {
    up_.BackwardInput(kept.up, d_x_TD, pass.compute, accumulate);
    return absl::OkStatus();
  }
  MUSTER_CHECK(!accumulate || tensor.sequence_parallel())
      << name_ << ": without sequence parallelism there is no room for a sum of its own";
  const TensorView sum_TD = accumulate ? d_x_TD_ : d_x_TD;
  const TensorView partial_TD = tensor.Partial(sum_TD, all_.x_TD);
  up_.BackwardInput(kept.up, partial_TD, pass.compute);
  RETURN_IF_ERROR(tensor.Reduce(partial_TD, sum_TD, pass.compute));
  if (accumulate) kernels::Add({.a = d_x_TD, .b = sum_TD, .out = d_x_TD}, pass.compute);
  return absl::OkStatus();
}

absl::Status Mlp::BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) {
  const Activations& kept = slots_[pass];
  ASSIGN_OR_RETURN(const TensorView all_d_y_TD, all_.OutputGradient(stage_, d_y_TD, pass.compute));
  down_.BackwardWeight(kept.activated, all_d_y_TD, pass.compute);
  ASSIGN_OR_RETURN(const TensorView all_x_TD,
                   stage_.tensor().Gather(x_TD, all_.x_TD, pass.compute));
  up_.BackwardWeight(all_x_TD, kept.up, pass.compute, AddsUpBias());
  return absl::OkStatus();
}

}  // namespace muster::models
