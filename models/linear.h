#pragma once
// A linear layer y = x W^T (+ b): weight [N, K] (out, in), "<name>.weight" and "<name>.bias".
#include <optional>
#include <string>

#include "models/layer.h"

namespace muster::models {

class Linear {
 public:
  struct Options {
    int64_t in = 0, out = 0;  // K, N
    bool bias = false;
    float init_std = 0.02f;
  };
  Linear(StageContext& stage, const std::string& name, const Options& options);

  void Forward(TensorView x_TK, TensorView y_TN, StreamView compute) const;
  // d_x = d_y W, or d_x += d_y W.
  void BackwardInput(TensorView d_y_TN, TensorView d_x_TK, StreamView compute,
                     bool accumulate = false) const;
  void BackwardWeight(TensorView x_TK, TensorView d_y_TN, StreamView compute) const;

 private:
  Weight weight_;
  std::optional<Weight> bias_;
};

// Standard deviation of the projections that write to the residual stream: their sum over the
// 2 layers x (attention, MLP) then keeps its size (Radford et al., GPT-2, 2019).
float ResidualInitStd(const ModelConfig& config);

}  // namespace muster::models
