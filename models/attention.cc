#include "models/attention.h"

#include <cmath>

#include "kernels/ops/attention.h"
#include "kernels/ops/rope.h"

namespace muster::models {
namespace {

int64_t Heads(const StageContext& stage) { return stage.PartOf(stage.config.heads()); }
int64_t KvHeads(const StageContext& stage) { return stage.PartOf(stage.config.kv_heads()); }

// Views of one packed [T, (H + 2K) C] tensor.
struct Packed {
  TensorView q, k, v;  // [B, S, H, C], [B, S, K, C], [B, S, K, C]
  TensorView kv;       // [B, S, 2K, C]
};
Packed Unpack(const TensorView& qkv, const StageContext& stage) {
  const int64_t H = Heads(stage), K = KvHeads(stage);
  const TensorView packed = qkv.Reshape(
      {stage.shape.sequences, stage.shape.sequence_length, H + 2 * K, stage.config.head_size()});
  return {packed.Slice(2, 0, H), packed.Slice(2, H, H + K), packed.Slice(2, H + K, H + 2 * K),
          packed.Slice(2, H, H + 2 * K)};
}

TensorView SplitHeads(const TensorView& heads, const StageContext& stage) {
  return heads.Reshape(
      {stage.shape.sequences, stage.shape.sequence_length, Heads(stage), stage.config.head_size()});
}

float Scale(const StageContext& stage) {
  return 1.0f / std::sqrt(static_cast<float>(stage.config.head_size()));
}

int64_t PackedWidth(const StageContext& stage) {
  return (Heads(stage) + 2 * KvHeads(stage)) * stage.config.head_size();
}
int64_t HeadsWidth(const StageContext& stage) { return Heads(stage) * stage.config.head_size(); }

// The projections of the whole layer.
Linear::Options QkvOptions(const ModelConfig& config) {
  const int64_t q = int64_t{config.heads()} * config.head_size();
  const int64_t kv = int64_t{config.kv_heads()} * config.head_size();
  return {.in = config.hidden(),
          .out = q + 2 * kv,
          .bias = config.bias(),
          .init_std = config.init_std(),
          .cut = Linear::Cut::kColumns,
          .segments = {q, kv, kv}};
}
Linear::Options OutputOptions(const ModelConfig& config) {
  return {.in = int64_t{config.heads()} * config.head_size(),
          .out = config.hidden(),
          .bias = config.bias(),
          .init_std = ResidualInitStd(config),
          .cut = Linear::Cut::kRows};
}

std::unique_ptr<parallel::ContextAttention> MakeContext(const StageContext& stage) {
  if (stage.mesh->degrees().cp == 1) return nullptr;
  return parallel::MakeContextAttention({.sequences = stage.shape.sequences,
                                         .tokens = stage.shape.sequence_length,
                                         .heads = Heads(stage),
                                         .kv_heads = KvHeads(stage),
                                         .head_size = stage.config.head_size(),
                                         .dtype = stage.shape.dtype,
                                         .kernel = stage.shape.attention_kernel},
                                        *stage.mesh, stage.shape.gather_context);
}

}  // namespace

Attention::Attention(StageContext& stage, const std::string& name, const TensorView& rope_table)
    : stage_(stage),
      name_(name),
      rope_table_(rope_table),
      qkv_(stage, name + ".qkv", QkvOptions(stage.config)),
      output_(stage, name + ".output", OutputOptions(stage.config)),
      context_(MakeContext(stage)),
      slots_(stage, stage.shape.recompute.attention || stage.shape.recompute.block),
      d_qkv_(static_cast<size_t>(stage.num_gradient_slots())) {}

void Attention::PlanMemory(ArenaPlan& plan) {
  const StageShape& shape = stage_.shape;
  const int64_t T = shape.tokens();
  const kernels::Shape lse_shape = {shape.sequences, Heads(stage_), shape.sequence_length};
  slots_.ForEach([&](Activations& kept, const std::string& set, Lifetime lifetime) {
    plan.Add(&kept.qkv, name_ + ".qkv, " + set, shape.dtype, {T, PackedWidth(stage_)}, lifetime);
    plan.Add(&kept.heads, name_ + ".heads, " + set, shape.dtype, {T, HeadsWidth(stage_)}, lifetime);
    plan.Add(&kept.lse, name_ + ".lse, " + set, stage_.accumulator(), lse_shape, lifetime);
  });
  const ArenaPlan::ScratchScope scratch(plan);
  all_.AddTo(plan, name_, stage_);
  for (int slot = 0; slot < stage_.num_gradient_slots(); ++slot) {
    plan.Add(&d_qkv_[static_cast<size_t>(slot)], SlotName(name_ + ".d_qkv", slot), shape.dtype,
             {T, PackedWidth(stage_)}, stage_.gradient_lifetime());
  }
  plan.Add(&d_heads_, name_ + ".d_heads", shape.dtype, {T, HeadsWidth(stage_)}, Lifetime::kScratch);
  if (context_) {
    context_->PlanMemory(plan, name_ + ".context");
  } else {
    plan.Add(&delta_, name_ + ".delta", stage_.accumulator(), lse_shape, Lifetime::kScratch);
  }
}

void Attention::Rotate(const TensorView& qkv, const Pass& pass, bool backward) const {
  if (stage_.config.position() != ROPE) return;
  const int64_t H = Heads(stage_), K = KvHeads(stage_);
  const TensorView heads =
      qkv.Reshape({stage_.shape.tokens(), H + 2 * K, stage_.config.head_size()});
  kernels::Rope({.x = heads.Slice(1, 0, H + K),
                 .positions = pass.positions,
                 .table = rope_table_,
                 .backward = backward},
                pass.compute);
}

absl::Status Attention::Attend(const Activations& kept, StreamView compute) {
  const Packed packed = Unpack(kept.qkv, stage_);
  const TensorView out = SplitHeads(kept.heads, stage_);
  if (context_) {
    return context_->Forward(
        {.q = packed.q, .kv = packed.kv, .out = out, .lse = kept.lse, .scale = Scale(stage_)},
        compute);
  }
  kernels::AttentionForward({.q = packed.q,
                             .k = packed.k,
                             .v = packed.v,
                             .out = out,
                             .lse = kept.lse,
                             .scale = Scale(stage_),
                             .kernel = stage_.shape.attention_kernel},
                            compute);
  return absl::OkStatus();
}

absl::Status Attention::AttendBackward(const Activations& kept, TensorView d_qkv,
                                       StreamView compute) {
  const Packed packed = Unpack(kept.qkv, stage_), d_packed = Unpack(d_qkv, stage_);
  const TensorView out = SplitHeads(kept.heads, stage_), d_out = SplitHeads(d_heads_, stage_);
  if (context_) {
    return context_->Backward({.d_out = d_out,
                               .q = packed.q,
                               .kv = packed.kv,
                               .out = out,
                               .lse = kept.lse,
                               .d_q = d_packed.q,
                               .d_kv = d_packed.kv,
                               .scale = Scale(stage_),
                               .deterministic = stage_.shape.deterministic_attention},
                              compute);
  }
  kernels::AttentionBackward({.d_out = d_out,
                              .q = packed.q,
                              .k = packed.k,
                              .v = packed.v,
                              .out = out,
                              .lse = kept.lse,
                              .d_q = d_packed.q,
                              .d_k = d_packed.k,
                              .d_v = d_packed.v,
                              .delta = delta_,
                              .scale = Scale(stage_),
                              .deterministic = stage_.shape.deterministic_attention,
                              .kernel = stage_.shape.attention_kernel},
                             compute);
  return absl::OkStatus();
}

absl::Status Attention::ForwardHeads(const Pass& pass, TensorView x_TD) {
  const Activations& kept = slots_[pass];
  ASSIGN_OR_RETURN(const TensorView all_x_TD,
                   stage_.tensor().Gather(x_TD, all_.x_TD, pass.compute));
  qkv_.Forward(all_x_TD, kept.qkv, pass.compute);
  Rotate(kept.qkv, pass, /*backward=*/false);
  return Attend(kept, pass.compute);
}

absl::Status Attention::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  RETURN_IF_ERROR(ForwardHeads(pass, x_TD));
  const parallel::TensorParallel tensor = stage_.tensor();
  const TensorView partial_TD = tensor.Partial(y_TD, all_.y_TD);
  output_.Forward(slots_[pass].heads, partial_TD, pass.compute);
  return tensor.Reduce(partial_TD, y_TD, pass.compute);
}

absl::Status Attention::Recompute(const Pass& pass, TensorView x_TD) {
  return slots_.recomputed() ? ForwardHeads(pass, x_TD) : absl::OkStatus();
}

absl::Status Attention::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) {
  const Activations& kept = slots_[pass];
  const TensorView& d_qkv = d_qkv_[static_cast<size_t>(pass.gradient_slot)];
  const parallel::TensorParallel tensor = stage_.tensor();
  ASSIGN_OR_RETURN(const TensorView all_d_y_TD, tensor.Gather(d_y_TD, all_.y_TD, pass.compute));
  output_.BackwardInput(all_d_y_TD, d_heads_, pass.compute);
  RETURN_IF_ERROR(AttendBackward(kept, d_qkv, pass.compute));
  Rotate(d_qkv, pass, /*backward=*/true);
  const TensorView partial_TD = tensor.Partial(d_x_TD, all_.x_TD);
  qkv_.BackwardInput(d_qkv, partial_TD, pass.compute);
  return tensor.Reduce(partial_TD, d_x_TD, pass.compute);
}

absl::Status Attention::BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) {
  const Activations& kept = slots_[pass];
  ASSIGN_OR_RETURN(const TensorView all_d_y_TD, all_.OutputGradient(stage_, d_y_TD, pass.compute));
  output_.BackwardWeight(kept.heads, all_d_y_TD, pass.compute);
  ASSIGN_OR_RETURN(const TensorView all_x_TD,
                   stage_.tensor().Gather(x_TD, all_.x_TD, pass.compute));
  qkv_.BackwardWeight(all_x_TD, d_qkv_[static_cast<size_t>(pass.gradient_slot)], pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
