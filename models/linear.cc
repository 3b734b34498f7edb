#include "models/linear.h"

#include <cmath>

#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"

namespace muster::models {

using parallel::InitRule;

Linear::Linear(StageContext& stage, const std::string& name, const Options& options)
    : weight_(stage, name + ".weight", {options.out, options.in},
              {.init = {InitRule::Kind::kNormal, options.init_std}}) {
  if (options.bias) {
    bias_.emplace(stage, name + ".bias", kernels::Shape{options.out},
                  Weight::Options{.init = {.kind = InitRule::Kind::kZeros}, .weight_decay = false});
  }
}

void Linear::Forward(TensorView x_TK, TensorView y_TN, StreamView compute) const {
  kernels::Matmul({.a = x_TK,
                   .b = weight_.Use(compute),
                   .c = y_TN,
                   .bias = bias_ ? bias_->Use(compute) : TensorView(),
                   .b_transposed = true},
                  compute);
}

void Linear::BackwardInput(TensorView d_y_TN, TensorView d_x_TK, StreamView compute,
                           bool accumulate) const {
  kernels::Matmul({.a = d_y_TN, .b = weight_.value(), .c = d_x_TK, .accumulate = accumulate},
                  compute);
}

void Linear::BackwardWeight(TensorView x_TK, TensorView d_y_TN, StreamView compute) const {
  // The order in which the buckets expect their gradients: the reverse of the constructor's.
  if (bias_) {
    kernels::ColumnSum({.x = d_y_TN, .out = bias_->gradient()}, compute);
    bias_->Ready(compute);
  }
  kernels::Matmul(
      {.a = d_y_TN, .b = x_TK, .c = weight_.gradient(), .a_transposed = true, .accumulate = true},
      compute);
  weight_.Ready(compute);
}

float ResidualInitStd(const ModelConfig& config) {
  return config.init_std() / std::sqrt(2.0f * static_cast<float>(config.layers()));
}

}  // namespace muster::models
