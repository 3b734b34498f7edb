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
      Mlp::Options{.ffn_hidden = stage.config.ffn_hidden(),
                   .bias = stage.config.bias(),
                   .recompute = stage.shape.recompute.mlp || stage.shape.recompute.block});
}

NormKeeps AttentionNormKeeps(const Recompute& recompute) {
  return recompute.norm || recompute.block ? NormKeeps::kInput : NormKeeps::kAll;
}
NormKeeps FeedForwardNormKeeps(const Recompute& recompute) {
  if (recompute.block) return NormKeeps::kNothing;
  return recompute.norm ? NormKeeps::kInput : NormKeeps::kAll;
}

}  // namespace

Block::Block(StageContext& stage, int layer, int moe_layer, const TensorView& rope_table,
             const BalanceState& balance)
    : stage_(stage),
      layer_(layer),
      name_(LayerName(layer)),
      attention_norm_(stage, name_ + ".attention_norm", AttentionNormKeeps(stage.shape.recompute)),
      attention_(stage, name_ + ".attention", rope_table),
      feed_forward_norm_(stage, name_ + ".feed_forward_norm",
                         FeedForwardNormKeeps(stage.shape.recompute)),
      feed_forward_(MakeFeedForward(stage, layer, moe_layer, balance)) {
  if (stage.shape.split_backward) {
    d_middle_TD_.resize(static_cast<size_t>(stage.num_gradient_slots()));
  }
}

parallel::CollectiveLog::At Block::Place() const {
  return {stage_.mesh->Group(parallel::Axis::kWorld).log(), {.layer = layer_}};
}

void Block::PlanMemory(ArenaPlan& plan) {
  const kernels::Shape shape = {stage_.shape.stream_tokens(), stage_.config.hidden()};
  for (size_t slot = 0; slot < d_middle_TD_.size(); ++slot) {
    plan.Add(&d_middle_TD_[slot], SlotName(name_ + ".d_middle", static_cast<int>(slot)),
             stage_.shape.dtype, shape, Lifetime::kActivation);
  }
  // What a recomputation fills is read until the end of the block's backward. The norms come first:
  // at equal offsets in all blocks, where the next block finds the output of the last.
  const ArenaPlan::ScratchScope scratch(plan);
  attention_norm_.PlanMemory(plan);
  feed_forward_norm_.PlanMemory(plan);
  plan.Add(&d_norm_TD_, name_ + ".d_norm", stage_.shape.dtype, shape, Lifetime::kScratch);
  attention_.PlanMemory(plan);
  feed_forward_->PlanMemory(plan);
}

absl::Status Block::Forward(const Pass& pass, TensorView h_TD, TensorView delta_TD,
                            TensorView delta_out_TD) {
  const auto place = Place();
  attention_norm_.Forward(pass, h_TD, delta_TD);
  RETURN_IF_ERROR(attention_.Forward(pass, attention_norm_.y_TD(pass), delta_out_TD));
  feed_forward_norm_.Forward(pass, attention_norm_.h_TD(pass), delta_out_TD);
  return feed_forward_->Forward(pass, feed_forward_norm_.y_TD(pass), delta_out_TD);
}

absl::Status Block::RecomputeBlock(const Pass& pass) {
  if (!stage_.shape.recompute.block) return absl::OkStatus();
  attention_norm_.Recompute(pass);
  RETURN_IF_ERROR(attention_.Forward(pass, attention_norm_.y_TD(pass), d_norm_TD_));
  feed_forward_norm_.Forward(pass, attention_norm_.h_TD(pass), d_norm_TD_);
  return feed_forward_->Recompute(pass, feed_forward_norm_.y_TD(pass));
}

absl::Status Block::RecomputeAttention(const Pass& pass) {
  if (stage_.shape.recompute.block) return absl::OkStatus();
  attention_norm_.Recompute(pass);
  return attention_.Recompute(pass, attention_norm_.y_TD(pass));
}

absl::Status Block::RecomputeFeedForward(const Pass& pass) {
  if (stage_.shape.recompute.block) return absl::OkStatus();
  feed_forward_norm_.Recompute(pass);
  return feed_forward_->Recompute(pass, feed_forward_norm_.y_TD(pass));
}

absl::Status Block::Backward(const Pass& forward, TensorView d_TD) {
  const auto place = Place();
  const Pass pass = BackwardPass(stage_, forward);
  RETURN_IF_ERROR(RecomputeBlock(pass));
  RETURN_IF_ERROR(RecomputeFeedForward(pass));
  RETURN_IF_ERROR(feed_forward_->BackwardInput(pass, d_TD, d_norm_TD_));
  RETURN_IF_ERROR(feed_forward_->BackwardWeight(pass, feed_forward_norm_.y_TD(pass), d_TD));
  feed_forward_norm_.Backward(pass, d_norm_TD_, d_TD, d_TD);
  feed_forward_norm_.Ready(pass.compute);
  RETURN_IF_ERROR(RecomputeAttention(pass));
  RETURN_IF_ERROR(attention_.BackwardInput(pass, d_TD, d_norm_TD_));
  RETURN_IF_ERROR(attention_.BackwardWeight(pass, attention_norm_.y_TD(pass), d_TD));
  attention_norm_.Backward(pass, d_norm_TD_, d_TD, d_TD);
  attention_norm_.Ready(pass.compute);
  return absl::OkStatus();
}

absl::Status Block::BackwardInput(const Pass& forward, TensorView d_out_TD, TensorView d_in_TD) {
  const auto place = Place();
  const Pass pass = BackwardPass(stage_, forward);
  const TensorView& d_middle_TD = d_middle_TD_[static_cast<size_t>(pass.gradient_slot)];
  RETURN_IF_ERROR(RecomputeBlock(pass));
  RETURN_IF_ERROR(RecomputeFeedForward(pass));
  RETURN_IF_ERROR(feed_forward_->BackwardInput(pass, d_out_TD, d_norm_TD_));
  feed_forward_norm_.Backward(pass, d_norm_TD_, d_out_TD, d_middle_TD);
  RETURN_IF_ERROR(RecomputeAttention(pass));
  RETURN_IF_ERROR(attention_.BackwardInput(pass, d_middle_TD, d_norm_TD_));
  attention_norm_.Backward(pass, d_norm_TD_, d_middle_TD, d_in_TD);
  return absl::OkStatus();
}

absl::Status Block::BackwardWeight(const Pass& forward, TensorView d_out_TD) {
  const auto place = Place();
  const Pass pass = BackwardPass(stage_, forward);
  RETURN_IF_ERROR(feed_forward_->BackwardWeight(pass, feed_forward_norm_.y_TD(pass), d_out_TD));
  feed_forward_norm_.Ready(pass.compute);
  RETURN_IF_ERROR(attention_.BackwardWeight(pass, attention_norm_.y_TD(pass),
                                            d_middle_TD_[static_cast<size_t>(pass.gradient_slot)]));
  attention_norm_.Ready(pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
