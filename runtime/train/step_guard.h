#pragma once
// Judges each step by its loss and gradient norm, which are equal on all ranks, so that all judge
// alike without asking each other. Pure.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

struct StepGuardOptions {
  // Steps in a row without an update that end the attempt; 0: never.
  int64_t max_consecutive_skips = 0;
  // A loss above this many times the mean of the last `loss_window` ones is a spike; 0: off.
  double loss_spike_factor = 0;
  int64_t loss_window = 32;
  bool skips_spikes = false;  // its step makes no update; else it ends the attempt
};

class StepGuard {
 public:
  explicit StepGuard(const StepGuardOptions& options) : options_(options) {}
  // Whether steps must be judged before their update.
  bool WantsLossBeforeUpdate() const {
    return options_.skips_spikes && options_.loss_spike_factor > 0;
  }
  // Empty, or how the loss spikes. Until the window is full there is nothing to compare with, and
  // only a loss that is not finite does.
  std::string Spike(double loss) const;
  // After a step: empty, or why the run has to go back to a checkpoint.
  std::string After(int64_t step, double loss, bool skipped);
  int64_t consecutive_skips() const { return consecutive_skips_; }

 private:
  const StepGuardOptions options_;
  int64_t consecutive_skips_ = 0;
  std::vector<double> window_;  // a ring of finite losses of steps that made an update
  size_t next_ = 0;
};

}  // namespace muster::runtime
