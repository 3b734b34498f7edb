#pragma once
// Weights, master copies and moments change in updates only. An update that is checked takes
// digests of the state that it meets, on its way through it (kernels/ops/adamw.h), and they have to
// be those of the state that the update before left. Each rank checks what it updates, its shard,
// so the rank of a flip is known at every ZeRO level.
//
// Every update checked: each flip is found by the next one. Every K-th: one flip of K, as the next
// update mixes a flip into what it writes.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

class StateCheck {
 public:
  // Checks updates whose number `every` divides; 0: none. `state` outlives it.
  static absl::StatusOr<std::unique_ptr<StateCheck>> Create(const TrainingState& state,
                                                            int64_t every);
  bool on() const { return every_ > 0; }
  // Before this process's first update, which is `step`: gives it something to compare with. Waits
  // for the compute stream.
  absl::Status Begin(int64_t step);
  // Whether update `step` takes digests: it is checked, or the next one, or what it leaves is
  // `saved`.
  bool TakesDigests(int64_t step, bool saved) const {
    return on() && (saved || step % every_ == 0 || (step + 1) % every_ == 0);
  }
  // Behind an update that takes digests: enqueues their way to the host.
  void Updated(int64_t step);
  // Once they are there, and before the next update: what changed before update `step`, by name;
  // empty if nothing did, or it was not checked.
  std::string ChangedBefore(int64_t step);
  // The same of the state as it is now, after update `step`. Waits for the compute stream.
  absl::StatusOr<std::string> ChangedSince(int64_t step);

 private:
  StateCheck(const TrainingState& state, int64_t every) : state_(state), every_(every) {}
  void BringDigests();
  // Of the host's copy: 0 as met, 1 as left.
  std::vector<int64_t> Column(size_t column) const;
  std::string Compare(const std::vector<int64_t>& met) const;
  const TrainingState& state_;
  const int64_t every_;
  std::vector<std::string> names_;  // by slice
  kernels::DeviceBuffer host_;      // int64 [slices, 2]
  int64_t taken_ = -1;              // the update whose digests are in host_, or on their way
  int64_t left_by_ = -1;            // the update that left
  std::vector<int64_t> left_;       // these digests, by slice
};

}  // namespace muster::runtime
