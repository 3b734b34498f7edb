#pragma once
// Where each token of a microbatch goes in one MoE layer, and where its rows come to lie on the
// ranks that hold the experts. A plan is made once in the forward, from the router's choice, and
// used by dispatch, combine and both backwards. All of it lives on the device; the host knows only
// the planned bounds.
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "parallel/comm/process_group.h"

namespace muster::parallel {

struct RouteShape {
  int64_t tokens = 0;   // T of this rank's microbatch
  int64_t experts = 0;  // of the whole layer
  int top_k = 1;
  int expert_ranks = 1;      // ep; experts is a multiple of it
  int64_t group_tokens = 0;  // tokens of a sequence: capacity counts per sequence
  int64_t capacity = 0;      // choices one sequence may send to one expert; 0: dropless
  // With capacity, where sequences are cut: how many may have tokens here. What finds no place has
  // then been dropped before (parallel/ep/capacity.h). 0: sequences are whole.
  int64_t cut_groups = 0;

  int64_t local_experts() const { return experts / expert_ranks; }
  int64_t sent_rows() const { return tokens * top_k; }
  // Worst case of a dropless layer: every token of every rank of the group comes here, at most
  // once for each local expert.
  int64_t received_rows() const;
};

// With one expert rank the views marked * stay null: nothing travels.
struct RoutePlan {
  kernels::TensorView rows_TK;           // int32 [T, k]: send row of each choice, -1: dropped
  kernels::TensorView counts_E;          // int64 [experts]: choices kept per expert
  kernels::TensorView offsets_E;         // int64 [experts + 1]
  kernels::TensorView dropped;           // int64 [1]
  kernels::TensorView counts_PE;         // * int64 [ep, local experts]: what each rank sends here
  kernels::TensorView send_counts_P;     // * int64 [ep]: rows to each rank
  kernels::TensorView receive_counts_P;  // * int64 [ep]
  kernels::TensorView index_R;           // * int32 [R]: arrival order -> expert order
  kernels::TensorView local_offsets;     // int64 [local experts + 1]: rows of each local expert
  kernels::TensorView row_count;         // int64 [1]: rows received

  void AddTo(kernels::ArenaPlan& plan, const std::string& name, const RouteShape& shape,
             kernels::Lifetime lifetime);
};

// experts_TK int32 [T, k] is the router's choice. Exchanges counts over the expert group.
absl::Status MakeRoutePlan(kernels::TensorView experts_TK, const RouteShape& shape,
                           const RoutePlan& plan, const ProcessGroup& expert_group,
                           kernels::StreamView stream);

}  // namespace muster::parallel
