#include "models/attention.h"

#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/rope.h"

namespace muster::models {
namespace {

// Views of one packed [T, (H + 2K) C] tensor.
struct Packed {
  TensorView q, k, v;  // [B, S, H, C], [B, S, K, C], [B, S, K, C]
};
Packed Unpack(const TensorView& qkv, const StageContext& stage) {
  const int64_t H = stage.config.heads(), K = stage.config.kv_heads();
  const TensorView packed = qkv.Reshape(
      {stage.shape.sequences, stage.shape.sequence_length, H + 2 * K, stage.config.head_size()});
  return {packed.Slice(2, 0, H), packed.Slice(2, H, H + K), packed.Slice(2, H + K, H + 2 * K)};
}

TensorView SplitHeads(const TensorView& heads, const StageContext& stage) {
  return heads.Reshape({stage.shape.sequences, stage.shape.sequence_length, stage.config.heads(),
                        stage.config.head_size()});
}

float Scale(const StageContext& stage) {
  return 1.0f / std::sqrt(static_cast<float>(stage.config.head_size()));
}

int64_t PackedWidth(const ModelConfig& config) {
  return int64_t{config.heads() + 2 * config.kv_heads()} * config.head_size();
}
int64_t HeadsWidth(const ModelConfig& config) {
  return int64_t{config.heads()} * config.head_size();
}

}  // namespace

Attention::Attention(StageContext& stage, const std::string& name, const TensorView& rope_table)
    : stage_(stage),
      name_(name),
      rope_table_(rope_table),
      qkv_(stage, name + ".qkv",
           {.in = stage.config.hidden(),
            .out = PackedWidth(stage.config),
            .bias = stage.config.bias(),
            .init_std = stage.config.init_std()}),
      output_(stage, name + ".output",
              {.in = HeadsWidth(stage.config),
               .out = stage.config.hidden(),
               .bias = stage.config.bias(),
               .init_std = ResidualInitStd(stage.config)}),
      slots_(stage, stage.shape.recompute.attention || stage.shape.recompute.block),
      d_qkv_(static_cast<size_t>(stage.num_gradient_slots())) {}

void Attention::PlanMemory(ArenaPlan& plan) {
  const StageShape& shape = stage_.shape;
  const int64_t T = shape.tokens();
  const kernels::Shape lse_shape = {shape.sequences, stage_.config.heads(), shape.sequence_length};
  slots_.ForEach([&](Activations& kept, const std::string& set, Lifetime lifetime) {
    plan.Add(&kept.qkv, name_ + ".qkv, " + set, shape.dtype, {T, PackedWidth(stage_.config)},
             lifetime);
    plan.Add(&kept.heads, name_ + ".heads, " + set, shape.dtype, {T, HeadsWidth(stage_.config)},
             lifetime);
    plan.Add(&kept.lse, name_ + ".lse, " + set, stage_.accumulator(), lse_shape, lifetime);
  });
  const ArenaPlan::ScratchScope scratch(plan);
  for (int slot = 0; slot < stage_.num_gradient_slots(); ++slot) {
    plan.Add(&d_qkv_[static_cast<size_t>(slot)], SlotName(name_ + ".d_qkv", slot), shape.dtype,
             {T, PackedWidth(stage_.config)}, stage_.gradient_lifetime());
  }
  plan.Add(&d_heads_, name_ + ".d_heads", shape.dtype, {T, HeadsWidth(stage_.config)},
           Lifetime::kScratch);
  plan.Add(&delta_, name_ + ".delta", stage_.accumulator(), lse_shape, Lifetime::kScratch);
}

void Attention::Rotate(const TensorView& qkv, const Pass& pass, bool backward) const {
  if (stage_.config.position() != ROPE) return;
  const int64_t H = stage_.config.heads(), K = stage_.config.kv_heads();
  const TensorView heads =
      qkv.Reshape({stage_.shape.tokens(), H + 2 * K, stage_.config.head_size()});
  kernels::Rope({.x = heads.Slice(1, 0, H + K),
                 .positions = pass.positions,
                 .table = rope_table_,
                 .backward = backward},
                pass.compute);
}

void Attention::ForwardHeads(const Pass& pass, TensorView x_TD) {
  const Activations& kept = slots_[pass];
  qkv_.Forward(x_TD, kept.qkv, pass.compute);
  Rotate(kept.qkv, pass, /*backward=*/false);
  const Packed packed = Unpack(kept.qkv, stage_);
  kernels::AttentionForward({.q = packed.q,
                             .k = packed.k,
                             .v = packed.v,
                             .out = SplitHeads(kept.heads, stage_),
                             .lse = kept.lse,
                             .scale = Scale(stage_)},
                            pass.compute);
}

absl::Status Attention::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  ForwardHeads(pass, x_TD);
  output_.Forward(slots_[pass].heads, y_TD, pass.compute);
  return absl::OkStatus();
}

absl::Status Attention::Recompute(const Pass& pass, TensorView x_TD) {
  if (slots_.recomputed()) ForwardHeads(pass, x_TD);
  return absl::OkStatus();
}

absl::Status Attention::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) {
  const Activations& kept = slots_[pass];
  const TensorView& d_qkv = d_qkv_[static_cast<size_t>(stage_.GradientSlot(pass.slot))];
  output_.BackwardInput(d_y_TD, d_heads_, pass.compute);
  const Packed packed = Unpack(kept.qkv, stage_), d_packed = Unpack(d_qkv, stage_);
  kernels::AttentionBackward({.d_out = SplitHeads(d_heads_, stage_),
                              .q = packed.q,
                              .k = packed.k,
                              .v = packed.v,
                              .out = SplitHeads(kept.heads, stage_),
                              .lse = kept.lse,
                              .d_q = d_packed.q,
                              .d_k = d_packed.k,
                              .d_v = d_packed.v,
                              .delta = delta_,
                              .scale = Scale(stage_)},
                             pass.compute);
  Rotate(d_qkv, pass, /*backward=*/true);
  qkv_.BackwardInput(d_qkv, d_x_TD, pass.compute);
  return absl::OkStatus();
}

absl::Status Attention::BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) {
  const Activations& kept = slots_[pass];
  output_.BackwardWeight(kept.heads, d_y_TD, pass.compute);
  qkv_.BackwardWeight(x_TD, d_qkv_[static_cast<size_t>(stage_.GradientSlot(pass.slot))],
                      pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
