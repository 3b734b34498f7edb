#include "runtime/train/state_check.h"

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "runtime/train/describe_changed.h"

namespace muster::runtime {

absl::StatusOr<std::unique_ptr<StateCheck>> StateCheck::Create(const TrainingState& state,
                                                               int64_t every) {
  std::unique_ptr<StateCheck> check(new StateCheck(state, every));
  if (every == 0) return check;
  ASSIGN_OR_RETURN(check->host_, kernels::DeviceBuffer::AllocateHost(
                                     state.device, state.optimizer->digests().bytes()));
  for (const parallel::OptimizerSlice& slice : state.optimizer->Slices()) {
    check->names_.push_back((*state.parameters)[slice.parameter].global_name);
  }
  return check;
}

void StateCheck::BringDigests() {
  const kernels::TensorView& digests = state_.optimizer->digests();
  kernels::CopyAsync(host_.data(), digests.data, digests.bytes(), state_.compute());
}

std::vector<int64_t> StateCheck::Column(size_t column) const {
  std::vector<int64_t> digests;
  for (size_t i = 0; i < names_.size(); ++i) {
    digests.push_back(static_cast<const int64_t*>(host_.data())[2 * i + column]);
  }
  return digests;
}

std::string StateCheck::Compare(const std::vector<int64_t>& met) const {
  return DescribeChanged(names_, left_, met);
}

absl::Status StateCheck::Begin(int64_t step) {
  if (!on()) return absl::OkStatus();
  state_.gather->Finish(state_.compute());
  state_.optimizer->Digest(state_.compute());
  BringDigests();
  RETURN_IF_ERROR(state_.compute().Synchronize());
  left_ = Column(1);
  left_by_ = step - 1;
  return absl::OkStatus();
}

void StateCheck::Updated(int64_t step) {
  taken_ = step;
  BringDigests();
}

std::string StateCheck::ChangedBefore(int64_t step) {
  if (taken_ != step) return "";
  std::string changed;
  if (step % every_ == 0 && left_by_ == step - 1) changed = Compare(Column(0));
  left_ = Column(1);
  left_by_ = step;
  return changed;
}

absl::StatusOr<std::string> StateCheck::ChangedSince(int64_t step) {
  if (!on() || left_by_ != step) return std::string();
  state_.gather->Finish(state_.compute());
  state_.optimizer->Digest(state_.compute());
  BringDigests();
  RETURN_IF_ERROR(state_.compute().Synchronize());
  return Compare(Column(0));
}

}  // namespace muster::runtime
