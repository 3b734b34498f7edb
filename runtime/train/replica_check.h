#pragma once
// Replicas of a weight hold the same bits on every rank. Each rank takes digests of what it holds,
// and those of one set of replicas have to agree; ranks that disagree with most of them are named,
// with the tensor.
//
// The digests are taken in front of an update. With zero.level 1 and 2 each update writes every
// weight anew from its owner's copy, so a flip outside the owner's part lives until the next one:
// to find each, every step has to be checked. What happens to the owner's part reaches all replicas
// alike; the check of the state (state_check.h) finds that. With zero.level 3 there are no
// replicas.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/train/training_state.h"

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

class ReplicaCheck {
 public:
  // Takes digests in front of updates whose number `every` divides; 0: of none. All outlive it.
  static absl::StatusOr<std::unique_ptr<ReplicaCheck>> Create(const TrainingState& state,
                                                              parallel::World& world,
                                                              int64_t every);
  bool on() const { return every_ > 0; }
  bool IsDue(int64_t step) const { return on() && step % every_ == 0; }
  // Enqueues digests of all weights held, and their way to the host.
  void Take();
  // Once they are there: what this rank has to tell the others, in one line; and what all have
  // told. Collective, if they differ, to find out where: a RollBackError then, equal on all ranks,
  // that names ranks and tensors.
  std::string Note() const;
  absl::Status Hear(const std::vector<std::string>& notes) const;

 private:
  ReplicaCheck(const TrainingState& state, parallel::World& world, int64_t every)
      : state_(state), world_(world), every_(every) {}
  // One a set of replicas, or, if `by_tensor`, one a tensor.
  std::vector<ReplicaHash> Hashes(bool by_tensor) const;
  const TrainingState& state_;
  parallel::World& world_;
  const int64_t every_;
  kernels::DeviceBuffer host_;  // as BucketDigests::sums()
};

}  // namespace muster::runtime
