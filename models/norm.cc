#include "models/norm.h"

#include "kernels/ops/layer_norm.h"
#include "kernels/ops/rms_norm.h"

namespace muster::models {

using parallel::InitRule;

NormLayer::NormLayer(StageContext& stage, const std::string& name, NormKeeps keeps)
    : stage_(stage),
      name_(name),
      weight_(stage, name + ".weight", {stage.config.hidden()},
              {.init = {.kind = InitRule::Kind::kOnes}, .weight_decay = false}),
      streams_(stage, keeps == NormKeeps::kNothing),
      outputs_(stage, keeps != NormKeeps::kAll) {
  if (stage.config.norm() == LAYER_NORM && stage.config.bias()) {
    bias_.emplace(stage, name + ".bias", kernels::Shape{stage.config.hidden()},
                  Weight::Options{.init = {.kind = InitRule::Kind::kZeros}, .weight_decay = false});
  }
}

void NormLayer::PlanMemory(ArenaPlan& plan) {
  const int64_t T = stage_.shape.stream_tokens(), D = stage_.config.hidden();
  streams_.ForEach([&](Stream& kept, const std::string& set, Lifetime lifetime) {
    const auto add = [&](TensorView* view, const char* what, DType dtype, kernels::Shape shape) {
      plan.Add(view, name_ + what + ", " + set, dtype, shape, lifetime);
    };
    add(&kept.h_TD, ".h", stage_.shape.dtype, {T, D});
    add(&kept.rstd_T, ".rstd", stage_.accumulator(), {T});
    if (stage_.config.norm() == LAYER_NORM) add(&kept.mean_T, ".mean", stage_.accumulator(), {T});
  });
  outputs_.ForEach([&](TensorView& y_TD, const std::string& set, Lifetime lifetime) {
    plan.Add(&y_TD, name_ + ".y, " + set, stage_.shape.dtype, {T, D}, lifetime);
  });
}

void NormLayer::Recompute(const Pass& pass) {
  if (outputs_.recomputed() && !streams_.recomputed()) Forward(pass, h_TD(pass), {});
}

void NormLayer::Forward(const Pass& pass, TensorView x_TD, TensorView delta_TD) {
  const Stream& kept = streams_[pass];
  MUSTER_CHECK(delta_TD || x_TD.data == kept.h_TD.data) << name_ << ": the input is not kept";
  const TensorView h_TD = delta_TD ? kept.h_TD : TensorView();
  if (stage_.config.norm() == RMS_NORM) {
    kernels::RmsNormForward({.x = x_TD,
                             .residual = delta_TD,
                             .weight = weight_.Use(pass.compute),
                             .h = h_TD,
                             .y = y_TD(pass),
                             .rstd = kept.rstd_T,
                             .epsilon = stage_.config.norm_epsilon()},
                            pass.compute);
  } else {
    kernels::LayerNormForward({.x = x_TD,
                               .residual = delta_TD,
                               .weight = weight_.Use(pass.compute),
                               .bias = bias_ ? bias_->Use(pass.compute) : TensorView(),
                               .h = h_TD,
                               .y = y_TD(pass),
                               .mean = kept.mean_T,
                               .rstd = kept.rstd_T,
                               .epsilon = stage_.config.norm_epsilon()},
                              pass.compute);
  }
}

void NormLayer::Backward(const Pass& pass, TensorView d_y_TD, TensorView d_residual_TD,
                         TensorView d_h_TD) {
  const Stream& kept = streams_[pass];
  TensorView d_weight, d_bias;
  if (stage_.tensor().contributes()) {
    d_weight = weight_.gradient();
    if (bias_) d_bias = bias_->gradient();
  } else {
    weight_.AddNothing();
    if (bias_) bias_->AddNothing();
  }
  if (stage_.config.norm() == RMS_NORM) {
    kernels::RmsNormBackward({.d_y = d_y_TD,
                              .h = kept.h_TD,
                              .weight = weight_.value(),
                              .rstd = kept.rstd_T,
                              .d_residual = d_residual_TD,
                              .d_h = d_h_TD,
                              .d_weight = d_weight},
                             pass.compute);
  } else {
    kernels::LayerNormBackward({.d_y = d_y_TD,
                                .h = kept.h_TD,
                                .weight = weight_.value(),
                                .mean = kept.mean_T,
                                .rstd = kept.rstd_T,
                                .d_residual = d_residual_TD,
                                .d_h = d_h_TD,
                                .d_weight = d_weight,
                                .d_bias = d_bias},
                               pass.compute);
  }
}

void NormLayer::Ready(StreamView compute) const {
  if (bias_) bias_->Ready(compute);
  weight_.Ready(compute);
}

}  // namespace muster::models
