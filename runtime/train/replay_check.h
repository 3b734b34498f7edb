#pragma once
// The same forward and backward give the same gradients, to the bit. A step that is checked runs
// them twice, and digests of what this rank computed, taken before each reduction, have to agree:
// no second copy of the gradients is needed. It finds what a processor computes wrong once, and
// what flips while a step runs, but in weights and tokens, which both runs read.
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

class ReplayCheck {
 public:
  // Checks steps whose number `every` divides; 0: none. `state` outlives it.
  static absl::StatusOr<std::unique_ptr<ReplayCheck>> Create(const TrainingState& state,
                                                             int64_t every);
  bool IsDue(int64_t step) const { return every_ > 0 && step > 0 && step % every_ == 0; }
  // Around each of the two passes of a step that is due, 0 and 1, with Digest for each bucket that
  // is about to be reduced. End enqueues their digests' way to the host.
  void Begin(kernels::StreamView compute) { state_.digests->Clear(compute); }
  void Digest(int bucket, const kernels::TensorView& whole, kernels::StreamView compute) {
    state_.digests->Add(bucket, whole, compute);
  }
  void End(int64_t step, int pass, kernels::StreamView compute);
  // Once they are there, also after the passes of the next step: the parameters, in the order of
  // the backward, of which the passes computed different gradients; empty if of none, or if the
  // step had no second pass.
  std::string Differing(int64_t step) const;

 private:
  ReplayCheck(const TrainingState& state, int64_t every) : state_(state), every_(every) {}
  static size_t Slot(int64_t step) { return static_cast<size_t>(step % 2); }
  const TrainingState& state_;
  const int64_t every_;
  std::vector<std::string> names_;  // as BucketDigests::sums()
  // By slot and pass: the host reads a step's facts while the next one's passes run.
  std::array<std::array<kernels::DeviceBuffer, 2>, 2> host_;
  std::array<int64_t, 2> replayed_{-1, -1};  // by slot: the step
};

}  // namespace muster::runtime
