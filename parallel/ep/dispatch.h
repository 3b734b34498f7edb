#pragma once
// Moves rows between token order on their home rank and expert order on the ranks of the expert
// group. Dispatch and Combine are each other's backward. Everything runs in fixed order: a token's
// rows are summed by choice, an expert's rows lie by source rank, then token.
#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "parallel/comm/process_group.h"
#include "parallel/ep/route_plan.h"

namespace muster::parallel {

// Rows in flight; valid inside one call, so layers share them.
struct DispatchStaging {
  kernels::TensorView sent_RD;             // [sent_rows, D]
  kernels::TensorView received_RD;         // [received_rows, D]
  kernels::TensorView sent_R, received_R;  // accumulator dtype: router weights

  // Adds nothing with one expert rank: rows then go straight between token and expert order.
  void AddTo(kernels::ArenaPlan& plan, const std::string& name, const RouteShape& shape,
             int64_t hidden, kernels::DType dtype, kernels::Lifetime lifetime);
};

// rows_RD [received_rows, D] in expert order; rows past plan.row_count are undefined.
absl::Status Dispatch(kernels::TensorView x_TD, const RoutePlan& plan,
                      const DispatchStaging& staging, kernels::TensorView rows_RD,
                      const ProcessGroup& expert_group, kernels::StreamView stream);
// out_TD = sum over a token's choices of its rows (+ out_TD if accumulate).
absl::Status Combine(kernels::TensorView rows_RD, const RoutePlan& plan,
                     const DispatchStaging& staging, kernels::TensorView out_TD, bool accumulate,
                     const ProcessGroup& expert_group, kernels::StreamView stream);
// The same two ways for one value per choice: router weights, and their gradient.
absl::Status DispatchWeights(kernels::TensorView weights_TK, const RoutePlan& plan,
                             const DispatchStaging& staging, kernels::TensorView weights_R,
                             const ProcessGroup& expert_group, kernels::StreamView stream);
absl::Status CombineWeights(kernels::TensorView weights_R, const RoutePlan& plan,
                            const DispatchStaging& staging, kernels::TensorView weights_TK,
                            const ProcessGroup& expert_group, kernels::StreamView stream);

}  // namespace muster::parallel
