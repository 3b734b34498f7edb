#include "runtime/train/step_guard.h"

#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace muster::runtime {

std::string StepGuard::Spike(double loss) const {
  if (options_.loss_spike_factor <= 0) return "";
  if (!std::isfinite(loss)) return absl::StrCat("the loss is ", loss);
  if (window_.size() < static_cast<size_t>(options_.loss_window)) return "";
  const double mean =
      std::accumulate(window_.begin(), window_.end(), 0.0) / static_cast<double>(window_.size());
  if (loss <= options_.loss_spike_factor * mean) return "";
  return absl::StrCat("the loss is ", loss, ", above ", options_.loss_spike_factor, " times ", mean,
                      ", the mean of the ", window_.size(),
                      " before it (safety.loss_spike_factor)");
}

std::string StepGuard::After(int64_t step, double loss, bool skipped) {
  consecutive_skips_ = skipped ? consecutive_skips_ + 1 : 0;
  const int64_t most = options_.max_consecutive_skips;
  if (most > 0 && consecutive_skips_ >= most) {
    return absl::StrCat("no update in the last ", consecutive_skips_, " steps, up to step ", step,
                        " (safety.max_consecutive_skips)");
  }
  if (skipped) return "";
  if (!std::isfinite(loss)) {
    return absl::StrCat("the loss of step ", step, " is ", loss,
                        " though its gradient is finite, and the weights are updated with it");
  }
  const std::string spike = Spike(loss);
  if (!spike.empty()) return absl::StrCat("step ", step, ": ", spike);
  if (window_.size() < static_cast<size_t>(options_.loss_window)) {
    window_.push_back(loss);
  } else {
    window_[next_] = loss;
    next_ = (next_ + 1) % window_.size();
  }
  return "";
}

}  // namespace muster::runtime
