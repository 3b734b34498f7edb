#include "parallel/ep/route_plan.h"

#include <algorithm>

#include "kernels/ops/permute.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::DType;

int64_t RouteShape::received_rows() const {
  const int64_t dropless = tokens * std::min<int64_t>(top_k, local_experts());
  if (capacity == 0) return expert_ranks * dropless;
  MUSTER_CHECK(cut_groups > 0 || (group_tokens > 0 && tokens % group_tokens == 0))
      << "capacity counts per group of tokens: " << tokens << " tokens are no whole number of "
      << "groups of " << group_tokens;
  const int64_t groups = cut_groups > 0 ? cut_groups : tokens / group_tokens;
  return expert_ranks * std::min(dropless, groups * capacity * local_experts());
}

void RoutePlan::AddTo(kernels::ArenaPlan& plan, const std::string& name, const RouteShape& shape,
                      kernels::Lifetime lifetime) {
  MUSTER_CHECK(shape.experts % shape.expert_ranks == 0)
      << shape.experts << " experts cannot be divided among " << shape.expert_ranks << " ranks";
  const int64_t ranks = shape.expert_ranks, local = shape.local_experts();
  const auto add = [&](kernels::TensorView* view, const char* what, DType dtype,
                       kernels::Shape dims) { plan.Add(view, name + what, dtype, dims, lifetime); };
  add(&rows_TK, ".rows", DType::kInt32, {shape.tokens, shape.top_k});
  add(&counts_E, ".counts", DType::kInt64, {shape.experts});
  add(&offsets_E, ".offsets", DType::kInt64, {shape.experts + 1});
  add(&dropped, ".dropped", DType::kInt64, {1});
  add(&local_offsets, ".local_offsets", DType::kInt64, {local + 1});
  add(&row_count, ".row_count", DType::kInt64, {1});
  if (ranks == 1) return;
  add(&counts_PE, ".source_counts", DType::kInt64, {ranks, local});
  add(&send_counts_P, ".send_counts", DType::kInt64, {ranks});
  add(&receive_counts_P, ".receive_counts", DType::kInt64, {ranks});
  add(&index_R, ".index", DType::kInt32, {shape.received_rows()});
}

absl::Status MakeRoutePlan(kernels::TensorView experts_TK, const RouteShape& shape,
                           const RoutePlan& plan, const ProcessGroup& expert_group,
                           kernels::StreamView stream) {
  const int64_t ranks = shape.expert_ranks, experts = shape.experts;
  MUSTER_CHECK_EQ(expert_group.size(), shape.expert_ranks);
  kernels::SortByExpert({.experts = experts_TK,
                         .rows = plan.rows_TK,
                         .counts = plan.counts_E,
                         .offsets = plan.offsets_E,
                         .dropped = plan.dropped,
                         .capacity = shape.cut_groups > 0 ? 0 : shape.capacity,
                         .group_tokens = shape.group_tokens},
                        stream);
  if (ranks == 1) {  // Rows already lie in the order of the local experts.
    kernels::CopyAsync(plan.local_offsets, plan.offsets_E, stream);
    kernels::CopyAsync(plan.row_count, plan.offsets_E.Slice(0, experts, experts + 1), stream);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(
      AllToAllEqual(plan.counts_E, plan.counts_PE.Reshape({experts}), expert_group, stream));
  kernels::SumCounts(
      {.counts = plan.counts_E.Reshape({ranks, shape.local_experts()}), .sums = plan.send_counts_P},
      stream);
  kernels::SumCounts({.counts = plan.counts_PE, .sums = plan.receive_counts_P}, stream);
  kernels::MergeSources({.counts = plan.counts_PE,
                         .index = plan.index_R,
                         .offsets = plan.local_offsets,
                         .row_count = plan.row_count},
                        stream);
  return absl::OkStatus();
}

}  // namespace muster::parallel
