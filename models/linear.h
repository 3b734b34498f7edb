#pragma once
// A linear layer y = x W^T (+ b): weight [N, K] (out, in), "<name>.weight" and "<name>.bias". It
// may be cut over the tensor group (parallel/tp/tensor_parallel.h).
#include <optional>
#include <string>
#include <vector>

#include "models/layer.h"

namespace muster::models {

class Linear {
 public:
  enum class Cut {
    kNone,
    kColumns,  // this rank has N / n of the outputs
    kRows,     // this rank has K / n of the inputs: y are partial sums, to which the first rank has
               // added the bias
  };
  struct Options {
    int64_t in = 0, out = 0;  // K, N of the whole layer
    bool bias = false;
    float init_std = 0.02f;
    Cut cut = Cut::kNone;
    std::vector<int64_t> segments = {};  // of the outputs, each cut by itself; sum to `out`
  };
  Linear(StageContext& stage, const std::string& name, const Options& options);

  void Forward(TensorView x_TK, TensorView y_TN, StreamView compute) const;
  // d_x = d_y W, or d_x += d_y W.
  void BackwardInput(TensorView d_y_TN, TensorView d_x_TK, StreamView compute,
                     bool accumulate = false) const;
  // With bias_added, bias_gradient() has this microbatch's part already: from whoever made d_y.
  void BackwardWeight(TensorView x_TK, TensorView d_y_TN, StreamView compute,
                      bool bias_added = false) const;
  // Of a layer cut over columns, for an operator enqueued next, which adds to it; null without a
  // bias.
  TensorView bias_gradient() const;

 private:
  const StageContext& stage_;
  const Cut cut_;
  Weight weight_;
  std::optional<Weight> bias_;
};

// Standard deviation of the projections that write to the residual stream: their sum over the
// 2 layers x (attention, MLP) then keeps its size (Radford et al., GPT-2, 2019).
float ResidualInitStd(const ModelConfig& config);

}  // namespace muster::models
