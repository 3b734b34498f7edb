#pragma once
// A Mixture-of-Experts layer: fp32 router, top-k choice, dispatch to the ranks that hold the
// experts, grouped MLPs whose activation carries the router weight, combine; and shared experts,
// run on every token as one MLP of their width.
//   scores_TE = router(x_TD);  plan = route(scores_TE)
//   rows_RD = dispatch(x_TD, plan);  y_RD = down(activation(up(rows_RD)) * weight_R)
//   y_TD = combine(y_RD, plan) + shared(x_TD)
// Expert e of the model lives on rank e / (E / P) of the expert group, cut over the expert-tensor
// group: each of its ranks has F / n hidden channels of the expert, takes the tokens of all n
// ranks, and the outputs, partial sums, are added and divided again:
//   x_TD -> all_x_TD -> rows_RD -> y_RD -> all_y_TD -> y_TD
// No two ranks of a stage route the same token: each tensor rank routes 1 / tp of them. With
// sequence parallelism those are its rows of the stream; without it, it takes its part of all rows,
// and the parts of the outputs are gathered behind the layer.
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/topk_route.h"
#include "models/activation_slots.h"
#include "models/layer.h"
#include "models/mlp.h"
#include "parallel/ep/capacity.h"
#include "parallel/ep/dispatch.h"
#include "parallel/ep/route_plan.h"

namespace muster::models {

// Balance of all MoE layers (L) of a stage, owned by the stage. Null where the config uses none.
struct BalanceState {
  TensorView bias_LE;         // accumulator dtype: added to scores for the choice only
  TensorView load_LE;         // accumulator dtype: the last step's fractions, each row sums to k
  TensorView expert_load_LE;  // int64: choices kept, of this step
  TensorView dropped_L;       // int64
  TensorView expert_rows;     // int64 [1]: rows that this rank's experts got, of this step
  TensorView losses;          // fp64 [2]: auxiliary, z
};

class Moe : public Layer {
 public:
  // `index` counts MoE layers: the row of `balance`, which must outlive the layer.
  Moe(StageContext& stage, const std::string& name, int index, const BalanceState& balance);
  void PlanMemory(ArenaPlan& plan) override;
  absl::Status Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) override;
  // The routing is kept: tokens are dispatched again along the same plan.
  absl::Status Recompute(const Pass& pass, TensorView x_TD) override;
  absl::Status BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) override;
  absl::Status BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) override;

 private:
  struct Activations {
    parallel::RoutePlan plan;
    TensorView logits_TE, scores_TE, weights_TK, weights_R;  // accumulator dtype
    TensorView experts_TK;                                   // int32
  };
  struct Hidden {  // of this rank's experts
    TensorView rows_RD;
    TensorView up_R;          // [R, 2F] or [R, F], before the activation; then its gradient
    TensorView activated_RF;  // times the router weight
  };
  struct Gradients {
    TensorView logits_TE;  // accumulator dtype
    TensorView y_RD;
  };
  void PlanActivations(ArenaPlan& plan);
  void PlanScratch(ArenaPlan& plan);
  // x in the accumulator dtype: itself, or a copy in `scratch`.
  TensorView Widen(TensorView x, TensorView scratch, StreamView compute) const;
  absl::Status Route(const Pass& pass, TensorView x_TD);
  // Brings the rows to their experts, and them up to the input of the down projection.
  absl::Status ExpertsHidden(const Pass& pass, TensorView x_TD);
  // From d_y_RD: gradients of the rows (d_rows_RD_) and of the router weights (d_weights_R_).
  void ExpertsBackward(const Pass& pass, TensorView d_y_RD);
  // Tokens of all ranks of the expert-tensor group to rows in expert order, and back to this rank's
  // tokens.
  absl::Status DispatchAll(TensorView x_TD, const parallel::RoutePlan& plan, TensorView rows_RD,
                           StreamView compute);
  absl::Status CombineOwn(TensorView rows_RD, const parallel::RoutePlan& plan, TensorView out_TD,
                          bool accumulate, StreamView compute);
  // This rank's rows of the stream, and its result from them back to the stream (or added to it).
  TensorView OwnRows(TensorView stream_TD) const {
    return gathers_ ? tokens_over().StreamRows(stream_TD) : stream_TD;
  }
  absl::Status Spread(TensorView own_TD, TensorView stream_TD, bool accumulate, StreamView compute);
  // Fractions of choices per expert for the auxiliary loss; null: those of the sequences here.
  absl::StatusOr<TensorView> AuxiliaryLoad(const Activations& kept, StreamView compute);
  absl::Status RouterBackward(const Pass& pass, TensorView d_x_TD);
  bool Widens() const { return stage_.shape.dtype != stage_.accumulator(); }
  const parallel::ProcessGroup& group() const {
    return stage_.mesh->Group(parallel::Axis::kExpert);
  }
  // The tensor ranks' parts of the tokens.
  parallel::TensorParallel tokens_over() const {
    return {stage_.mesh->Group(parallel::Axis::kTensor), /*sequence_parallel=*/true};
  }
  // Its stream are this rank's tokens.
  parallel::TensorParallel expert_tensor() const {
    return {stage_.mesh->Group(parallel::Axis::kExpertTensor), /*sequence_parallel=*/true};
  }
  const Activations& Kept(const Pass& pass) const { return slots_[static_cast<size_t>(pass.slot)]; }
  const Gradients& Gradient(const Pass& pass) const {
    return gradients_[static_cast<size_t>(pass.gradient_slot)];
  }

  const StageContext& stage_;
  const std::string name_;
  const int index_;
  const BalanceState& balance_;
  const bool gathers_;                // all tensor ranks have all rows
  const int64_t tokens_;              // T that this rank routes
  const parallel::RouteShape route_;  // of the tokens of the expert-tensor group
  const kernels::RouterOptions options_;
  const int64_t ffn_hidden_, up_width_;  // of this rank
  Weight router_, up_, down_;
  std::unique_ptr<Mlp> shared_;                           // may be null
  std::unique_ptr<parallel::SequenceCapacity> capacity_;  // null unless sequences are cut
  std::vector<Activations> slots_;
  ActivationSlots<Hidden> hidden_;
  std::vector<Gradients> gradients_;  // by gradient slot
  // Scratch.
  parallel::DispatchStaging staging_;
  TensorView wide_TD_, wide_ED_;  // accumulator dtype, where that is not the storage dtype
  TensorView y_RD_;
  // With expert-tensor parallelism: of all tokens of the group, and what is added to another sum.
  TensorView all_x_TD_, all_y_TD_, sum_TD_, all_weights_TK_, all_experts_TK_;
  TensorView own_TD_, gathered_TD_;  // where outputs are gathered
  // Null unless sequences lie on several ranks: their loads, and the choices of the tensor group.
  TensorView sequence_load_BE_, stream_experts_TK_;
  TensorView d_activated_RF_, d_rows_RD_, d_weights_R_, d_weights_TK_;
};

}  // namespace muster::models
