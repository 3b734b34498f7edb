#include "runtime/train/replay_check.h"

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "runtime/train/describe_changed.h"

namespace muster::runtime {

absl::StatusOr<std::unique_ptr<ReplayCheck>> ReplayCheck::Create(const TrainingState& state,
                                                                 int64_t every) {
  std::unique_ptr<ReplayCheck> check(new ReplayCheck(state, every));
  if (every == 0) return check;
  for (auto& of_pass : check->host_) {
    for (kernels::DeviceBuffer& host : of_pass) {
      ASSIGN_OR_RETURN(
          host, kernels::DeviceBuffer::AllocateHost(state.device, state.digests->sums().bytes()));
    }
  }
  for (const parallel::ParameterId id : state.digests->parameters()) {
    check->names_.push_back((*state.parameters)[id].global_name);
  }
  return check;
}

void ReplayCheck::End(int64_t step, int pass, kernels::StreamView compute) {
  const kernels::TensorView& sums = state_.digests->sums();
  kernels::CopyAsync(host_[Slot(step)][static_cast<size_t>(pass)].data(), sums.data, sums.bytes(),
                     compute);
  if (pass == 1) replayed_[Slot(step)] = step;
}

std::string ReplayCheck::Differing(int64_t step) const {
  if (replayed_[Slot(step)] != step) return "";
  const auto of_pass = [&](size_t pass) {
    const auto* sums = static_cast<const int64_t*>(host_[Slot(step)][pass].data());
    return std::vector<int64_t>(sums, sums + names_.size());
  };
  return DescribeChanged(names_, of_pass(0), of_pass(1));
}

}  // namespace muster::runtime
