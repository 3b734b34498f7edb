#pragma once
// The embedding table of a model whose output projection is tied to it, where the first and the
// last stage are on different ranks: each has the table and the gradient of its own use. After each
// stage's replicas have reduced theirs, the two are added up, first stage first, so both hold the
// same gradient to the bit, and the same update keeps the weights equal.
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

class TiedWeight {
 public:
  // Makes and warms the group of `first` and `last`, the pipeline ranks of those stages; called by
  // all ranks. Ranks of other stages get one that does nothing.
  static absl::StatusOr<std::unique_ptr<TiedWeight>> Create(int first, int last, World& world,
                                                            const Mesh& mesh);
  // Adds up the gradients of the buckets that are tied: this rank's shards, or with `whole_buckets`
  // (ZeRO 0) all of them. After BucketReducer::Finish.
  absl::Status SumGradients(const BucketStorage& storage, bool whole_buckets,
                            kernels::StreamView compute) const;

 private:
  TiedWeight() = default;
  std::unique_ptr<ProcessGroup> group_;  // null on ranks of other stages
};

}  // namespace muster::parallel
