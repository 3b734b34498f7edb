#include "parallel/dp/tied_weight.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

absl::StatusOr<std::unique_ptr<TiedWeight>> TiedWeight::Create(int first, int last, World& world,
                                                               const Mesh& mesh) {
  std::unique_ptr<TiedWeight> tied(new TiedWeight());
  const ProcessGroup& pipeline = mesh.Group(Axis::kPipeline);
  if (first == last || (pipeline.rank() != first && pipeline.rank() != last)) return tied;
  std::vector<int> ranks = {pipeline.world_ranks()[static_cast<size_t>(first)],
                            pipeline.world_ranks()[static_cast<size_t>(last)]};
  std::sort(ranks.begin(), ranks.end());
  ASSIGN_OR_RETURN(tied->group_, world.NewGroup("tie", ranks, kExposedPp, mesh.device()));
  ASSIGN_OR_RETURN(
      const kernels::Stream stream,
      kernels::Stream::Create(mesh.device(), kernels::StreamMode::kQueue, "warm tie group"));
  RETURN_IF_ERROR(Barrier(*tied->group_, stream.view()));
  RETURN_IF_ERROR(stream.view().Synchronize());
  return tied;
}

absl::Status TiedWeight::SumGradients(const BucketStorage& storage, bool whole_buckets,
                                      kernels::StreamView compute) const {
  if (group_ == nullptr) return absl::OkStatus();
  for (int b = 0; b < static_cast<int>(storage.layout().buckets.size()); ++b) {
    if (storage.layout().buckets[static_cast<size_t>(b)].tie == Tie::kNone) continue;
    RETURN_IF_ERROR(AllReduce(whole_buckets ? storage.gradients(b) : storage.gradient_shard(b),
                              ReduceOp::kSum, *group_, compute));
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
