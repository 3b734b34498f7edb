#include "runtime/train/lr_schedule.h"

#include <cmath>
#include <numbers>

#include "kernels/base/error.h"

namespace muster::runtime {

double LearningRate(const Optimizer& optimizer, int64_t total_steps, int64_t update) {
  MUSTER_CHECK(update >= 1) << "updates count from 1, found " << update;
  const double peak = optimizer.learning_rate();
  const int64_t warmup = optimizer.warmup_steps();
  if (update <= warmup) return peak * static_cast<double>(update) / static_cast<double>(warmup);
  if (optimizer.decay() == CONSTANT) return peak;

  const int64_t end = optimizer.decay_steps() > 0 ? optimizer.decay_steps() : total_steps;
  const double floor = peak * optimizer.min_learning_rate_ratio();
  if (update >= end) return floor;
  const double x = static_cast<double>(update - warmup) / static_cast<double>(end - warmup);
  const double share =
      optimizer.decay() == LINEAR ? 1 - x : (1 + std::cos(std::numbers::pi * x)) / 2;
  return floor + (peak - floor) * share;
}

}  // namespace muster::runtime
