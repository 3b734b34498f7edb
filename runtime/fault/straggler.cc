#include "runtime/fault/straggler.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace muster::runtime {
namespace {

constexpr double kTimesNoise = 3;
constexpr int kWindowsToBeSlow = 2;

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace

StragglerFinder::StragglerFinder(StragglerOptions options, int world_size)
    : options_(std::move(options)),
      now_(static_cast<size_t>(world_size)),
      window_begin_(now_.size()),
      slow_windows_(now_.size()),
      told_(now_.size()) {}

void StragglerFinder::See(int rank, int64_t steps_done, int64_t busy_ns) {
  now_[static_cast<size_t>(rank)] = {steps_done, busy_ns};
  // An attempt's first step warms up, so the first window begins behind it.
  Point& begin = window_begin_[static_cast<size_t>(rank)];
  if (begin.steps == 0) begin = now_[static_cast<size_t>(rank)];
  for (size_t r = 0; r < now_.size(); ++r) {
    if (window_begin_[r].steps == 0 ||
        now_[r].steps - window_begin_[r].steps < options_.window_steps) {
      return;
    }
  }
  CloseWindow();
}

void StragglerFinder::CloseWindow() {
  std::vector<double> rate(now_.size());
  for (size_t r = 0; r < now_.size(); ++r) {
    rate[r] = static_cast<double>(now_[r].busy_ns - window_begin_[r].busy_ns) /
              static_cast<double>(now_[r].steps - window_begin_[r].steps);
  }
  window_begin_ = now_;
  rate_before_ = std::exchange(rate_, std::move(rate));
  for (size_t r = 0; r < now_.size(); ++r) Judge(static_cast<int>(r));
}

void StragglerFinder::Judge(int rank) {
  const auto mine = static_cast<size_t>(rank);
  std::vector<double> now, before;  // the peers'
  for (size_t r = 0; r < rate_.size(); ++r) {
    if (r == mine || (!options_.stage.empty() && options_.stage[r] != options_.stage[mine])) {
      continue;
    }
    now.push_back(rate_[r]);
    if (!rate_before_.empty()) before.push_back(rate_before_[r]);
  }
  if (now.empty()) return;
  const double median = Median(now);
  // Steps that are longer for all are no noise; with one peer that cannot be told from it.
  const double scale = before.empty() || now.size() == 1 ? 1 : median / Median(before);
  double noise = 0;
  for (size_t i = 0; i < now.size(); ++i) {
    noise = std::max(noise, std::abs(now[i] - median));
    if (!before.empty()) noise = std::max(noise, std::abs(now[i] - before[i] * scale));
  }
  const double above = rate_[mine] - median;
  const bool slow = above > options_.excess * median && above > kTimesNoise * noise;
  slow_windows_[mine] = slow ? slow_windows_[mine] + 1 : 0;
  if (slow_windows_[mine] < kWindowsToBeSlow || told_[mine]) return;
  told_[mine] = true;
  found_.push_back({rank, above / median});
}

std::optional<SlowRank> StragglerFinder::Next() {
  if (found_.empty()) return std::nullopt;
  const SlowRank next = found_.front();
  found_.erase(found_.begin());
  return next;
}

}  // namespace muster::runtime
