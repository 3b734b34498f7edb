#include "models/moe.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "kernels/ops/balance.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/grouped_matmul.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/swiglu.h"
#include "models/uneven_work.h"
#include "parallel/comm/collectives.h"

namespace muster::models {
namespace {

using parallel::Axis;
using parallel::InitRule;

// Of a microbatch, on this rank: the tensor ranks divide what they all have.
int64_t RoutedTokens(const StageContext& stage) {
  return stage.shape.tokens() / stage.mesh->degrees().tp;
}

// Whether the tokens of a sequence are routed on several ranks.
bool SequencesAreCut(const StageContext& stage) {
  return stage.mesh->degrees().cp > 1 || RoutedTokens(stage) % stage.shape.sequence_length != 0;
}

parallel::RouteShape RouteShapeOf(const StageContext& stage) {
  const MoeConfig& moe = stage.config.moe();
  const parallel::MeshDegrees& degrees = stage.mesh->degrees();
  const int64_t S = stage.shape.sequence_length, tokens = RoutedTokens(stage);
  // Rounded up, but not because 1.1 as a float lies a little above 1.1.
  const double places = static_cast<double>(moe.capacity_factor()) *
                        static_cast<double>(S * degrees.cp * moe.top_k()) / moe.experts();
  const double capacity = std::ceil(places * (1 - 1e-6));
  // Of sequences in a row that begins anywhere.
  const int64_t touched = std::min<int64_t>((tokens + S - 2) / S + 1, stage.shape.sequences);
  return {.tokens = tokens * degrees.etp,
          .experts = moe.experts(),
          .top_k = moe.top_k(),
          .expert_ranks = degrees.ep,
          .group_tokens = S,
          .capacity = static_cast<int64_t>(capacity),
          .cut_groups = SequencesAreCut(stage) ? touched * degrees.etp : 0};
}

kernels::RouterOptions RouterOptionsOf(const MoeConfig& moe) {
  return {.score = moe.score() == SOFTMAX ? kernels::RouterScore::kSoftmax
                                          : kernels::RouterScore::kSigmoid,
          .top_k = moe.top_k(),
          .groups = moe.groups(),
          .group_top_k = moe.group_top_k(),
          .normalise = moe.normalise_weights(),
          .scale = moe.weight_scale(),
          .aux_coefficient = moe.aux_loss(),
          .z_coefficient = moe.z_loss()};
}

// Experts [E, ...] over ep; the hidden channels, in dim `hidden_dim`, over etp.
Weight::Options ExpertOptions(float std, int hidden_dim, std::vector<int64_t> segments) {
  return {.init = {InitRule::Kind::kNormal, std},
          .placement = {.shards = {{Axis::kExpert, 0},
                                   {Axis::kExpertTensor, hidden_dim, std::move(segments)}},
                        .replica_axis = Axis::kExpertData}};
}

bool Recomputed(const StageContext& stage) {
  return stage.shape.recompute.moe || stage.shape.recompute.block;
}

// Whether the auxiliary loss wants counts of sequences that lie on several ranks.
bool SharesSequences(const StageContext& stage) {
  const MoeConfig& moe = stage.config.moe();
  return SequencesAreCut(stage) && moe.aux_loss() > 0 && moe.aux_level() == SEQUENCE;
}

TensorView Row(const TensorView& matrix, int row) {
  return matrix ? matrix.Slice(0, row, row + 1).Reshape({matrix.shape[1]}) : TensorView();
}

}  // namespace

Moe::Moe(StageContext& stage, const std::string& name, int index, const BalanceState& balance)
    : stage_(stage),
      name_(name),
      index_(index),
      balance_(balance),
      gathers_(stage.mesh->degrees().tp > 1 && !stage.tensor().sequence_parallel()),
      tokens_(RoutedTokens(stage)),
      route_(RouteShapeOf(stage)),
      options_(RouterOptionsOf(stage.config.moe())),
      ffn_hidden_(stage.config.moe().expert_ffn_hidden() / stage.mesh->degrees().etp),
      up_width_(UpWidth(stage.config, ffn_hidden_)),
      router_(
          stage, name + ".router.weight", {route_.experts, stage.config.hidden()},
          {.init = {InitRule::Kind::kNormal, stage.config.init_std()}, .writes_gradient = true}),
      up_(stage, name + ".experts." + UpName(stage.config),
          {route_.experts, UpWidth(stage.config, stage.config.moe().expert_ffn_hidden()),
           stage.config.hidden()},
          ExpertOptions(stage.config.init_std(), 1,
                        UpSegments(stage.config, stage.config.moe().expert_ffn_hidden()))),
      down_(stage, name + ".experts.down",
            {route_.experts, stage.config.hidden(), stage.config.moe().expert_ffn_hidden()},
            ExpertOptions(ResidualInitStd(stage.config), 2, {})),
      slots_(static_cast<size_t>(stage.shape.num_slots)),
      hidden_(stage, Recomputed(stage)),
      gradients_(static_cast<size_t>(stage.num_gradient_slots())) {
  const MoeConfig& moe = stage.config.moe();
  if (route_.cut_groups > 0 && route_.capacity > 0) {
    capacity_ = std::make_unique<parallel::SequenceCapacity>(
        parallel::CapacityShape{
            .tokens = tokens_,
            .sequence_tokens = stage.shape.sequence_length * stage.mesh->degrees().cp,
            .experts = moe.experts(),
            .top_k = moe.top_k(),
            .capacity = route_.capacity},
        stage.mesh->Group(Axis::kTensor), stage.mesh->Group(Axis::kContext));
  }
  if (moe.shared_experts() > 0) {
    shared_ = std::make_unique<Mlp>(
        stage, name + ".shared",
        Mlp::Options{.ffn_hidden = int64_t{moe.shared_experts()} * moe.expert_ffn_hidden(),
                     .recompute = Recomputed(stage)});
  }
}

void Moe::PlanActivations(ArenaPlan& plan) {
  const int64_t T = tokens_, E = route_.experts, R = route_.received_rows();
  const int64_t D = stage_.config.hidden(), F = ffn_hidden_;
  const DType storage = stage_.shape.dtype, accumulator = stage_.accumulator();
  for (int slot = 0; slot < stage_.shape.num_slots; ++slot) {
    Activations& kept = slots_[static_cast<size_t>(slot)];
    const auto add = [&](TensorView* view, const char* what, DType dtype, kernels::Shape shape) {
      plan.Add(view, SlotName(name_ + what, slot), dtype, shape, Lifetime::kActivation);
    };
    kept.plan.AddTo(plan, SlotName(name_ + ".route", slot), route_, Lifetime::kActivation);
    add(&kept.logits_TE, ".logits", accumulator, {T, E});
    add(&kept.scores_TE, ".scores", accumulator, {T, E});
    add(&kept.weights_TK, ".weights", accumulator, {T, route_.top_k});
    add(&kept.weights_R, ".row_weights", accumulator, {R});
    add(&kept.experts_TK, ".experts", DType::kInt32, {T, route_.top_k});
  }
  hidden_.ForEach([&](Hidden& hidden, const std::string& set, Lifetime lifetime) {
    const auto add = [&](TensorView* view, const char* what, kernels::Shape shape) {
      plan.Add(view, name_ + what + ", " + set, storage, shape, lifetime);
    };
    add(&hidden.rows_RD, ".rows", {R, D});
    add(&hidden.up_R, ".up", {R, up_width_});
    add(&hidden.activated_RF, ".activated", {R, F});
  });
  if (shared_) shared_->PlanActivations(plan);
}

void Moe::PlanScratch(ArenaPlan& plan) {
  const int64_t T = tokens_, E = route_.experts, R = route_.received_rows();
  const int64_t D = stage_.config.hidden(), F = ffn_hidden_;
  const DType storage = stage_.shape.dtype, accumulator = stage_.accumulator();
  const auto add = [&](TensorView* view, const char* what, DType dtype, kernels::Shape shape) {
    plan.Add(view, name_ + what, dtype, shape, Lifetime::kScratch);
  };
  staging_.AddTo(plan, name_ + ".staging", route_, D, storage, Lifetime::kScratch);
  if (Widens()) {
    add(&wide_TD_, ".wide_x", accumulator, {T, D});
    add(&wide_ED_, ".wide_router", accumulator, {E, D});
  }
  if (expert_tensor().size() > 1) {
    const int64_t all = route_.tokens;
    add(&all_x_TD_, ".all_x", storage, {all, D});
    add(&all_y_TD_, ".all_y", storage, {all, D});
    add(&sum_TD_, ".sum", storage, {T, D});
    add(&all_weights_TK_, ".all_weights", accumulator, {all, route_.top_k});
    add(&all_experts_TK_, ".all_experts", DType::kInt32, {all, route_.top_k});
  }
  if (gathers_) {
    add(&own_TD_, ".own", storage, {T, D});
    add(&gathered_TD_, ".gathered", storage, {stage_.shape.tokens(), D});
  }
  {
    const ArenaPlan::ScratchScope forward(plan);
    if (capacity_) capacity_->PlanMemory(plan, name_ + ".capacity");
    add(&y_RD_, ".y", storage, {R, D});
  }
  const ArenaPlan::ScratchScope backward(plan);
  for (int slot = 0; slot < stage_.num_gradient_slots(); ++slot) {
    Gradients& gradients = gradients_[static_cast<size_t>(slot)];
    plan.Add(&gradients.logits_TE, SlotName(name_ + ".d_logits", slot), accumulator, {T, E},
             stage_.gradient_lifetime());
    plan.Add(&gradients.y_RD, SlotName(name_ + ".d_y", slot), storage, {R, D},
             stage_.gradient_lifetime());
  }
  add(&d_activated_RF_, ".d_activated", storage, {R, F});
  add(&d_rows_RD_, ".d_rows", storage, {R, D});
  add(&d_weights_R_, ".d_row_weights", accumulator, {R});
  add(&d_weights_TK_, ".d_weights", accumulator, {T, route_.top_k});
  if (SharesSequences(stage_)) {
    add(&sequence_load_BE_, ".sequence_load", accumulator, {stage_.shape.sequences, E});
    if (tokens_over().size() > 1) {
      add(&stream_experts_TK_, ".stream_experts", DType::kInt32,
          {stage_.shape.tokens(), route_.top_k});
    }
  }
  // Inside the scope: the shared experts run while the gradients above wait for BackwardWeight.
  if (shared_) shared_->PlanScratch(plan);
}

void Moe::PlanMemory(ArenaPlan& plan) {
  PlanActivations(plan);
  const ArenaPlan::ScratchScope scratch(plan);
  PlanScratch(plan);
}

TensorView Moe::Widen(TensorView x, TensorView scratch, StreamView compute) const {
  if (!Widens()) return x;
  kernels::Cast({.x = x, .out = scratch}, compute);
  return scratch;
}

absl::Status Moe::Route(const Pass& pass, TensorView x_TD) {
  const Activations& kept = Kept(pass);
  const StreamView compute = pass.compute;
  kernels::Matmul({.a = Widen(x_TD, wide_TD_, compute),
                   .b = Widen(router_.Use(compute), wide_ED_, compute),
                   .c = kept.logits_TE,
                   .b_transposed = true},
                  compute);
  kernels::TopkRouteForward({.logits = kept.logits_TE,
                             .bias = Row(balance_.bias_LE, index_),
                             .scores = kept.scores_TE,
                             .experts = kept.experts_TK,
                             .weights = kept.weights_TK,
                             .options = options_},
                            compute);
  TensorView experts_TK = kept.experts_TK;
  if (capacity_) {
    ASSIGN_OR_RETURN(experts_TK, capacity_->Admit(kept.experts_TK, compute));
  }
  ASSIGN_OR_RETURN(const TensorView all_experts_TK,
                   expert_tensor().Gather(experts_TK, all_experts_TK_, compute));
  RETURN_IF_ERROR(parallel::MakeRoutePlan(all_experts_TK, route_, kept.plan, group(), compute));
  kernels::AddCounts({.counts = kept.plan.row_count, .total = balance_.expert_rows}, compute);
  if (expert_tensor().rank() != 0) return absl::OkStatus();  // all have counted the same choices
  kernels::AddCounts({.counts = kept.plan.counts_E, .total = Row(balance_.expert_load_LE, index_)},
                     compute);
  kernels::AddCounts(
      {.counts = kept.plan.dropped, .total = balance_.dropped_L.Slice(0, index_, index_ + 1)},
      compute);
  return absl::OkStatus();
}

absl::Status Moe::DispatchAll(TensorView x_TD, const parallel::RoutePlan& plan, TensorView rows_RD,
                              StreamView compute) {
  const kernels::Span span(compute, "dispatch", kUnevenWork);
  ASSIGN_OR_RETURN(const TensorView all_x_TD, expert_tensor().Gather(x_TD, all_x_TD_, compute));
  return parallel::Dispatch(all_x_TD, plan, staging_, rows_RD, group(), compute);
}

absl::Status Moe::CombineOwn(TensorView rows_RD, const parallel::RoutePlan& plan, TensorView out_TD,
                             bool accumulate, StreamView compute) {
  const kernels::Span span(compute, "combine", kUnevenWork);
  const parallel::TensorParallel tensor = expert_tensor();
  if (tensor.size() == 1) {
    return parallel::Combine(rows_RD, plan, staging_, out_TD, accumulate, group(), compute);
  }
  RETURN_IF_ERROR(parallel::Combine(rows_RD, plan, staging_, all_y_TD_, /*accumulate=*/false,
                                    group(), compute));
  const TensorView sum_TD = accumulate ? sum_TD_ : out_TD;
  RETURN_IF_ERROR(tensor.Reduce(all_y_TD_, sum_TD, compute));
  if (accumulate) kernels::Add({.a = out_TD, .b = sum_TD, .out = out_TD}, compute);
  return absl::OkStatus();
}

absl::Status Moe::Spread(TensorView own_TD, TensorView stream_TD, bool accumulate,
                         StreamView compute) {
  if (!accumulate) return tokens_over().Gather(own_TD, stream_TD, compute).status();
  RETURN_IF_ERROR(tokens_over().Gather(own_TD, gathered_TD_, compute).status());
  kernels::Add({.a = stream_TD, .b = gathered_TD_, .out = stream_TD}, compute);
  return absl::OkStatus();
}

absl::Status Moe::ExpertsHidden(const Pass& pass, TensorView x_TD) {
  const Activations& kept = Kept(pass);
  const Hidden& hidden = hidden_[pass];
  const StreamView compute = pass.compute;
  const kernels::Span span(compute, "experts", kUnevenWork);
  RETURN_IF_ERROR(DispatchAll(OwnRows(x_TD), kept.plan, hidden.rows_RD, compute));
  kernels::GroupedMatmulForward({.x = hidden.rows_RD,
                                 .w = up_.Use(compute),
                                 .y = hidden.up_R,
                                 .offsets = kept.plan.local_offsets},
                                compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluForward({.gate_up = hidden.up_R,
                            .row_weight = kept.weights_R,
                            .row_count = kept.plan.row_count,
                            .out = hidden.activated_RF},
                           compute);
  } else {
    kernels::GeluForward({.x = hidden.up_R,
                          .row_weight = kept.weights_R,
                          .row_count = kept.plan.row_count,
                          .out = hidden.activated_RF},
                         compute);
  }
  return absl::OkStatus();
}

absl::Status Moe::Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) {
  const Activations& kept = Kept(pass);
  RETURN_IF_ERROR(Route(pass, OwnRows(x_TD)));
  ASSIGN_OR_RETURN(const TensorView all_weights_TK,
                   expert_tensor().Gather(kept.weights_TK, all_weights_TK_, pass.compute));
  RETURN_IF_ERROR(parallel::DispatchWeights(all_weights_TK, kept.plan, staging_, kept.weights_R,
                                            group(), pass.compute));
  RETURN_IF_ERROR(ExpertsHidden(pass, x_TD));
  {
    const kernels::Span span(pass.compute, "experts", kUnevenWork);
    kernels::GroupedMatmulForward({.x = hidden_[pass].activated_RF,
                                   .w = down_.Use(pass.compute),
                                   .y = y_RD_,
                                   .offsets = kept.plan.local_offsets},
                                  pass.compute);
  }
  if (shared_) RETURN_IF_ERROR(shared_->Forward(pass, x_TD, y_TD));
  const bool accumulate = shared_ != nullptr;
  if (!gathers_) return CombineOwn(y_RD_, kept.plan, y_TD, accumulate, pass.compute);
  RETURN_IF_ERROR(CombineOwn(y_RD_, kept.plan, own_TD_, /*accumulate=*/false, pass.compute));
  return Spread(own_TD_, y_TD, accumulate, pass.compute);
}

absl::Status Moe::Recompute(const Pass& pass, TensorView x_TD) {
  if (!hidden_.recomputed()) return absl::OkStatus();
  if (shared_) RETURN_IF_ERROR(shared_->Recompute(pass, x_TD));
  return ExpertsHidden(pass, x_TD);
}

void Moe::ExpertsBackward(const Pass& pass, TensorView d_y_RD) {
  const Activations& kept = Kept(pass);
  const Hidden& hidden = hidden_[pass];
  const StreamView compute = pass.compute;
  const TensorView& offsets = kept.plan.local_offsets;
  const kernels::Span span(compute, "experts", kUnevenWork);
  kernels::GroupedMatmulBackwardInput(
      {.d_y = d_y_RD, .w = down_.value(), .d_x = d_activated_RF_, .offsets = offsets}, compute);
  if (stage_.config.activation() == SWIGLU) {
    kernels::SwiGluBackward({.d_out = d_activated_RF_,
                             .gate_up = hidden.up_R,
                             .row_weight = kept.weights_R,
                             .row_count = kept.plan.row_count,
                             .d_gate_up = hidden.up_R,
                             .d_row_weight = d_weights_R_},
                            compute);
  } else {
    kernels::GeluBackward({.d_out = d_activated_RF_,
                           .x = hidden.up_R,
                           .row_weight = kept.weights_R,
                           .row_count = kept.plan.row_count,
                           .d_x = hidden.up_R,
                           .d_row_weight = d_weights_R_},
                          compute);
  }
  kernels::GroupedMatmulBackwardInput(
      {.d_y = hidden.up_R, .w = up_.value(), .d_x = d_rows_RD_, .offsets = offsets}, compute);
}

absl::StatusOr<TensorView> Moe::AuxiliaryLoad(const Activations& kept, StreamView compute) {
  if (!sequence_load_BE_) return Row(balance_.load_LE, index_);
  // The choices of all rows that this rank's tensor group holds, then of the sequences' other
  // parts.
  ASSIGN_OR_RETURN(const TensorView experts_TK,
                   tokens_over().Gather(kept.experts_TK, stream_experts_TK_, compute));
  const parallel::ProcessGroup& context = stage_.mesh->Group(Axis::kContext);
  kernels::GroupLoad({.experts = experts_TK,
                      .out = sequence_load_BE_,
                      .group_tokens = route_.group_tokens,
                      .scale = 1.0 / static_cast<double>(route_.group_tokens * context.size())},
                     compute);
  RETURN_IF_ERROR(
      parallel::AllReduce(sequence_load_BE_, parallel::ReduceOp::kSum, context, compute));
  return sequence_load_BE_;
}

absl::Status Moe::RouterBackward(const Pass& pass, TensorView d_x_TD) {
  const Activations& kept = Kept(pass);
  const Gradients& gradients = Gradient(pass);
  const StreamView compute = pass.compute;
  const TensorView partial_TK = expert_tensor().Partial(d_weights_TK_, all_weights_TK_);
  RETURN_IF_ERROR(
      parallel::CombineWeights(d_weights_R_, kept.plan, staging_, partial_TK, group(), compute));
  RETURN_IF_ERROR(expert_tensor().Reduce(partial_TK, d_weights_TK_, compute));
  // All ranks of the stage hold equally many tokens, and no two the same.
  const double global_tokens = static_cast<double>(tokens_) * stage_.shape.num_microbatches *
                               stage_.mesh->Group(Axis::kStage).size();
  ASSIGN_OR_RETURN(const TensorView load, AuxiliaryLoad(kept, compute));
  kernels::TopkRouteBackward({.logits = kept.logits_TE,
                              .scores = kept.scores_TE,
                              .experts = kept.experts_TK,
                              .d_weights = d_weights_TK_,
                              .load = load,
                              .d_logits = gradients.logits_TE,
                              .losses = balance_.losses,
                              .group_tokens = route_.group_tokens,
                              .first_token = sequence_load_BE_ ? tokens_over().rank() * tokens_ : 0,
                              .loss_scale = 1.0 / global_tokens,
                              .options = options_},
                             compute);
  kernels::Matmul({.a = gradients.logits_TE,
                   .b = Widen(router_.value(), wide_ED_, compute),
                   .c = Widens() ? wide_TD_ : d_x_TD},
                  compute);
  if (Widens()) kernels::Cast({.x = wide_TD_, .out = d_x_TD}, compute);
  return absl::OkStatus();
}

absl::Status Moe::BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) {
  const Activations& kept = Kept(pass);
  const TensorView& d_y_RD = Gradient(pass).y_RD;
  RETURN_IF_ERROR(DispatchAll(OwnRows(d_y_TD), kept.plan, d_y_RD, pass.compute));
  ExpertsBackward(pass, d_y_RD);
  const TensorView own_d_x_TD = gathers_ ? own_TD_ : d_x_TD;
  RETURN_IF_ERROR(RouterBackward(pass, own_d_x_TD));
  if (shared_) {
    RETURN_IF_ERROR(shared_->BackwardInput(pass, d_y_TD, d_x_TD, /*accumulate=*/!gathers_));
  }
  RETURN_IF_ERROR(CombineOwn(d_rows_RD_, kept.plan, own_d_x_TD, /*accumulate=*/true, pass.compute));
  if (!gathers_) return absl::OkStatus();
  return Spread(own_TD_, d_x_TD, /*accumulate=*/shared_ != nullptr, pass.compute);
}

absl::Status Moe::BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) {
  const Activations& kept = Kept(pass);
  const Hidden& hidden = hidden_[pass];
  const Gradients& gradients = Gradient(pass);
  const StreamView compute = pass.compute;
  const TensorView& offsets = kept.plan.local_offsets;
  if (shared_) RETURN_IF_ERROR(shared_->BackwardWeight(pass, x_TD, d_y_TD));
  {
    const kernels::Span span(compute, "experts", kUnevenWork);
    kernels::GroupedMatmulBackwardWeight({.d_y = gradients.y_RD,
                                          .x = hidden.activated_RF,
                                          .d_w = down_.gradient(),
                                          .offsets = offsets},
                                         compute);
    down_.Ready(compute);
    kernels::GroupedMatmulBackwardWeight(
        {.d_y = hidden.up_R, .x = hidden.rows_RD, .d_w = up_.gradient(), .offsets = offsets},
        compute);
  }
  up_.Ready(compute);
  const auto [gradient, adds] = router_.NextContribution();
  kernels::Matmul({.a = gradients.logits_TE,
                   .b = Widen(OwnRows(x_TD), wide_TD_, compute),
                   .c = gradient,
                   .a_transposed = true,
                   .accumulate = adds},
                  compute);
  router_.Ready(compute);
  return absl::OkStatus();
}

}  // namespace muster::models
