#include "parallel/ep/dispatch.h"

#include "kernels/ops/permute.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {
namespace {

// One value per row, as a matrix of one column.
TensorView AsColumn(const TensorView& values_R) { return values_R.Reshape({values_R.shape[0], 1}); }

// Sent rows (by destination) -> rows in expert order on their ranks.
absl::Status SendRows(TensorView sent, TensorView received, TensorView rows, const RoutePlan& plan,
                      const ProcessGroup& group, StreamView stream) {
  RETURN_IF_ERROR(
      AllToAll(sent, received, plan.send_counts_P, plan.receive_counts_P, group, stream));
  kernels::GatherRows(
      {.x = received, .index = plan.index_R, .row_count = plan.row_count, .out = rows}, stream);
  return absl::OkStatus();
}

// The way back, by the same plan.
absl::Status ReturnRows(TensorView rows, TensorView received, TensorView sent,
                        const RoutePlan& plan, const ProcessGroup& group, StreamView stream) {
  kernels::GatherRows({.x = rows,
                       .index = plan.index_R,
                       .row_count = plan.row_count,
                       .out = received,
                       .inverse = true},
                      stream);
  return AllToAll(received, sent, plan.receive_counts_P, plan.send_counts_P, group, stream);
}

}  // namespace

void DispatchStaging::AddTo(kernels::ArenaPlan& plan, const std::string& name,
                            const RouteShape& shape, int64_t hidden, kernels::DType dtype,
                            kernels::Lifetime lifetime) {
  if (shape.expert_ranks == 1) return;  // Rows go straight from token to expert order.
  const kernels::DType weight_dtype = kernels::AccumulatorDType(dtype);
  const int64_t sent = shape.sent_rows(), received = shape.received_rows();
  plan.Add(&sent_RD, name + ".sent", dtype, {sent, hidden}, lifetime);
  plan.Add(&received_RD, name + ".received", dtype, {received, hidden}, lifetime);
  plan.Add(&sent_R, name + ".sent_weights", weight_dtype, {sent}, lifetime);
  plan.Add(&received_R, name + ".received_weights", weight_dtype, {received}, lifetime);
}

absl::Status Dispatch(TensorView x_TD, const RoutePlan& plan, const DispatchStaging& staging,
                      TensorView rows_RD, const ProcessGroup& expert_group, StreamView stream) {
  const bool local = expert_group.size() == 1;
  kernels::DispatchRows({.x = x_TD, .rows = plan.rows_TK, .out = local ? rows_RD : staging.sent_RD},
                        stream);
  if (local) return absl::OkStatus();
  return SendRows(staging.sent_RD, staging.received_RD, rows_RD, plan, expert_group, stream);
}

absl::Status Combine(TensorView rows_RD, const RoutePlan& plan, const DispatchStaging& staging,
                     TensorView out_TD, bool accumulate, const ProcessGroup& expert_group,
                     StreamView stream) {
  const bool local = expert_group.size() == 1;
  if (!local) {
    RETURN_IF_ERROR(
        ReturnRows(rows_RD, staging.received_RD, staging.sent_RD, plan, expert_group, stream));
  }
  kernels::CombineRows({.x = local ? rows_RD : staging.sent_RD,
                        .rows = plan.rows_TK,
                        .out = out_TD,
                        .accumulate = accumulate},
                       stream);
  return absl::OkStatus();
}

absl::Status DispatchWeights(TensorView weights_TK, const RoutePlan& plan,
                             const DispatchStaging& staging, TensorView weights_R,
                             const ProcessGroup& expert_group, StreamView stream) {
  const bool local = expert_group.size() == 1;
  kernels::PermuteWeights({.values_Tk = weights_TK,
                           .rows = plan.rows_TK,
                           .values_R = local ? weights_R : staging.sent_R},
                          stream);
  if (local) return absl::OkStatus();
  return SendRows(AsColumn(staging.sent_R), AsColumn(staging.received_R), AsColumn(weights_R), plan,
                  expert_group, stream);
}

absl::Status CombineWeights(TensorView weights_R, const RoutePlan& plan,
                            const DispatchStaging& staging, TensorView weights_TK,
                            const ProcessGroup& expert_group, StreamView stream) {
  const bool local = expert_group.size() == 1;
  if (!local) {
    RETURN_IF_ERROR(ReturnRows(AsColumn(weights_R), AsColumn(staging.received_R),
                               AsColumn(staging.sent_R), plan, expert_group, stream));
  }
  kernels::PermuteWeights({.values_Tk = weights_TK,
                           .rows = plan.rows_TK,
                           .values_R = local ? weights_R : staging.sent_R,
                           .to_tokens = true},
                          stream);
  return absl::OkStatus();
}

}  // namespace muster::parallel
