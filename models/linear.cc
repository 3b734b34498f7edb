#include "models/linear.h"

#include <cmath>

#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"

namespace muster::models {

using parallel::InitRule;

namespace {

// Of dim 0 (outputs) or 1 (inputs); a bias has outputs only.
parallel::Placement PlacementOf(const Linear::Options& options, bool bias) {
  switch (options.cut) {
    case Linear::Cut::kColumns:
      return {.shards = {{parallel::Axis::kTensor, 0, options.segments}}};
    case Linear::Cut::kRows:
      if (!bias) return {.shards = {{parallel::Axis::kTensor, 1}}};
      break;
    case Linear::Cut::kNone:
      break;
  }
  return {};
}

}  // namespace

Linear::Linear(StageContext& stage, const std::string& name, const Options& options)
    : stage_(stage),
      cut_(options.cut),
      weight_(stage, name + ".weight", {options.out, options.in},
              {.init = {InitRule::Kind::kNormal, options.init_std},
               .placement = PlacementOf(options, /*bias=*/false),
               .writes_gradient = true}) {
  if (options.bias) {
    bias_.emplace(stage, name + ".bias", kernels::Shape{options.out},
                  Weight::Options{.init = {.kind = InitRule::Kind::kZeros},
                                  .placement = PlacementOf(options, /*bias=*/true),
                                  .weight_decay = false});
  }
}

void Linear::Forward(TensorView x_TK, TensorView y_TN, StreamView compute) const {
  const TensorView weight = weight_.Use(compute);
  TensorView bias = bias_ ? bias_->Use(compute) : TensorView();
  if (cut_ == Cut::kRows && stage_.tensor().rank() != 0) bias = {};
  kernels::Matmul({.a = x_TK, .b = weight, .c = y_TN, .bias = bias, .b_transposed = true}, compute);
}

void Linear::BackwardInput(TensorView d_y_TN, TensorView d_x_TK, StreamView compute,
                           bool accumulate) const {
  kernels::Matmul({.a = d_y_TN, .b = weight_.value(), .c = d_x_TK, .accumulate = accumulate},
                  compute);
}

TensorView Linear::bias_gradient() const {
  MUSTER_CHECK(cut_ == Cut::kColumns) << "of other layers not all ranks add to the bias' gradient";
  return bias_ ? bias_->gradient() : TensorView();
}

void Linear::BackwardWeight(TensorView x_TK, TensorView d_y_TN, StreamView compute,
                            bool bias_added) const {
  // The order in which the buckets expect their gradients: the reverse of the constructor's.
  if (bias_) {
    const parallel::TensorParallel tensor = stage_.tensor();
    if (bias_added) {
      // Ready is all that is left.
    } else if (cut_ == Cut::kColumns) {
      kernels::ColumnSum({.x = d_y_TN, .out = bias_->gradient()}, compute);
    } else if (tensor.contributes()) {
      kernels::ColumnSum({.x = tensor.StreamRows(d_y_TN), .out = bias_->gradient()}, compute);
    } else {
      bias_->AddNothing();
    }
    bias_->Ready(compute);
  }
  const auto [gradient, adds] = weight_.NextContribution();
  kernels::Matmul({.a = d_y_TN, .b = x_TK, .c = gradient, .a_transposed = true, .accumulate = adds},
                  compute);
  weight_.Ready(compute);
}

float ResidualInitStd(const ModelConfig& config) {
  return config.init_std() / std::sqrt(2.0f * static_cast<float>(config.layers()));
}

}  // namespace muster::models
