#pragma once
// Replicas of a weight hold the same bits on every rank. Each rank hashes what it holds, per group
// of replicas; ranks that disagree with most of their replicas are named, with the tensor.
//
// With zero.level 1 and above, each update writes every weight anew from its owner's copy: a flip
// outside the owner's part lives until the next update, so only safety.replica_check_every: 1 finds
// every flip; one in the owner's part before the update reaches all replicas alike.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/mesh.h"
#include "parallel/mesh/parameter.h"

namespace muster::runtime {

// What one rank holds of one set of replicas: `replicas` names the set (axis, and the group's first
// rank), `hash` is of all its bytes.
struct ReplicaHash {
  std::string replicas;
  uint64_t hash = 0;
};

// Pure: the ranks, by set, whose hash is not that of most; of a tie, all of the set. Empty: agreed.
struct ReplicaDispute {
  std::string replicas;
  std::vector<int> ranks;
  bool tie = false;
};
std::vector<ReplicaDispute> CompareReplicas(const std::vector<std::vector<ReplicaHash>>& by_rank);

// Collective; waits for `compute`, on which the weights must be complete. OK, or RollBackError,
// equal on all ranks, naming ranks and tensors.
absl::Status CheckReplicas(const parallel::BucketStorage& storage,
                           const parallel::ParameterList& parameters, const parallel::Mesh& mesh,
                           kernels::StreamView compute, parallel::World& world);

}  // namespace muster::runtime
