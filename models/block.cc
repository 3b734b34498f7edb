#include "models/block.h"

#include "models/config.h"
#include "models/mlp.h"

namespace muster::models {
namespace {

std::string LayerName(int layer) { return "layers." + std::to_string(layer); }

std::unique_ptr<Layer> MakeFeedForward(StageContext& stage, int layer, int moe_layer,
                                       const BalanceState& balance) {
  if (IsMoeLayer(stage.config, layer)) {
    return std::make_unique<Moe>(stage, LayerName(layer) + ".moe", moe_layer, balance);
  }
  return std::make_unique<Mlp>(
      stage, LayerName(layer) + ".mlp",
      Mlp::Options{.ffn_hidden = stage.config.ffn_hidden(), .bias = stage.config.bias()});
}

}  // namespace

Block::Block(StageContext& stage, int layer, int moe_layer, const TensorView& rope_table,
             const BalanceState& balance)
    : stage_(stage),
      name_(LayerName(layer)),
      attention_norm_(stage, name_ + ".attention_norm"),
      attention_(stage, name_ + ".attention", rope_table),
      feed_forward_norm_(stage, name_ + ".feed_forward_norm"),
      feed_forward_(MakeFeedForward(stage, layer, moe_layer, balance)) {
  if (stage.shape.split_backward) d_middle_TD_.resize(static_cast<size_t>(stage.shape.num_slots));
}

void Block::PlanMemory(ArenaPlan& plan) {
  const kernels::Shape shape = {stage_.shape.tokens(), stage_.config.hidden()};
  for (size_t slot = 0; slot < d_middle_TD_.size(); ++slot) {
    plan.Add(&d_middle_TD_[slot], SlotName(name_ + ".d_middle", static_cast<int>(slot)),
             stage_.shape.dtype, shape, Lifetime::kActivation);
  }
  attention_norm_.PlanMemory(plan);
  feed_forward_norm_.PlanMemory(plan);
  const ArenaPlan::ScratchScope scratch(plan);
  plan.Add(&d_norm_TD_, name_ + ".d_norm", stage_.shape.dtype, shape, Lifetime::kScratch);
  attention_.PlanMemory(plan);
  feed_forward_->PlanMemory(plan);
}

absl::Status Block::Forward(const Pass& pass, TensorView h_TD, TensorView delta_TD,
                            TensorView delta_out_TD) {
  attention_norm_.Forward(pass, h_TD, delta_TD);
  RETURN_IF_ERROR(attention_.Forward(pass, attention_norm_.y_TD(pass.slot), delta_out_TD));
  feed_forward_norm_.Forward(pass, attention_norm_.h_TD(pass.slot), delta_out_TD);
  return feed_forward_->Forward(pass, feed_forward_norm_.y_TD(pass.slot), delta_out_TD);
}

absl::Status Block::Backward(const Pass& pass, TensorView d_TD) {
  RETURN_IF_ERROR(feed_forward_->BackwardInput(pass, d_TD, d_norm_TD_));
  RETURN_IF_ERROR(feed_forward_->BackwardWeight(pass, feed_forward_norm_.y_TD(pass.slot), d_TD));
  feed_forward_norm_.Backward(pass, d_norm_TD_, d_TD, d_TD);
  feed_forward_norm_.Ready(pass.compute);
  RETURN_IF_ERROR(attention_.BackwardInput(pass, d_TD, d_norm_TD_));
  RETURN_IF_ERROR(attention_.BackwardWeight(pass, attention_norm_.y_TD(pass.slot), d_TD));
  attention_norm_.Backward(pass, d_norm_TD_, d_TD, d_TD);
  attention_norm_.Ready(pass.compute);
  return absl::OkStatus();
}

absl::Status Block::BackwardInput(const Pass& pass, TensorView d_out_TD, TensorView d_in_TD) {
  const TensorView& d_middle_TD = d_middle_TD_[static_cast<size_t>(pass.slot)];
  RETURN_IF_ERROR(feed_forward_->BackwardInput(pass, d_out_TD, d_norm_TD_));
  feed_forward_norm_.Backward(pass, d_norm_TD_, d_out_TD, d_middle_TD);
  RETURN_IF_ERROR(attention_.BackwardInput(pass, d_middle_TD, d_norm_TD_));
  attention_norm_.Backward(pass, d_norm_TD_, d_middle_TD, d_in_TD);
  return absl::OkStatus();
}

absl::Status Block::BackwardWeight(const Pass& pass, TensorView d_out_TD) {
  RETURN_IF_ERROR(
      feed_forward_->BackwardWeight(pass, feed_forward_norm_.y_TD(pass.slot), d_out_TD));
  feed_forward_norm_.Ready(pass.compute);
  RETURN_IF_ERROR(attention_.BackwardWeight(pass, attention_norm_.y_TD(pass.slot),
                                            d_middle_TD_[static_cast<size_t>(pass.slot)]));
  attention_norm_.Ready(pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
