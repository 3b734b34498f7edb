#pragma once
// The feed-forward layer of a dense block, and the shared experts of a MoE block: SwiGLU with a
// fused projection [2F, D], or GELU with [F, D]; then down [D, F]. Over the tensor group each rank
// has F / n of the hidden channels.
#include <string>

#include "models/activation_slots.h"
#include "models/layer.h"
#include "models/linear.h"

namespace muster::models {

class Mlp : public Layer {
 public:
  struct Options {
    int64_t ffn_hidden = 0;  // F of the whole layer
    bool bias = false;
    bool recompute = false;
  };
  Mlp(StageContext& stage, const std::string& name, const Options& options);
  void PlanMemory(ArenaPlan& plan) override;
  // The two halves of PlanMemory.
  void PlanActivations(ArenaPlan& plan);
  void PlanScratch(ArenaPlan& plan);
  absl::Status Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) override;
  absl::Status Recompute(const Pass& pass, TensorView x_TD) override;
  absl::Status BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) override {
    return BackwardInput(pass, d_y_TD, d_x_TD, /*accumulate=*/false);
  }
  // With accumulate, adds to d_x.
  absl::Status BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD,
                             bool accumulate);
  absl::Status BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) override;

 private:
  // Whether the activation's backward adds the up projection's bias gradient, in the pass over its
  // rows: where BackwardWeight follows at once.
  bool AddsUpBias() const {
    return stage_.config.activation() != SWIGLU && !stage_.shape.split_backward;
  }
  struct Activations {
    TensorView up;         // [T, 2F] or [T, F], before the activation; then its gradient
    TensorView activated;  // [T, F]
  };
  // Up to the input of the down projection.
  absl::Status ForwardHidden(const Pass& pass, TensorView x_TD);

  const StageContext& stage_;
  const std::string name_;
  const int64_t ffn_hidden_, up_width_;  // of this rank
  Linear up_, down_;
  ActivationSlots<Activations> slots_;
  TensorView d_activated_;  // scratch
  AllRows all_;             // scratch
  TensorView d_x_TD_;       // scratch, with sequence parallelism: what is added to another d_x
};

// "gate_up" or "up", its width (2F or F), and the segments of that: {F, F} or {F}.
const char* UpName(const ModelConfig& config);
int64_t UpWidth(const ModelConfig& config, int64_t ffn_hidden);
std::vector<int64_t> UpSegments(const ModelConfig& config, int64_t ffn_hidden);

}  // namespace muster::models
