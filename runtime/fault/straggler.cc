#include "runtime/fault/straggler.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace muster::runtime {
namespace {

constexpr double kTimesNoise = 3;
constexpr int kWindowsToBeSlow = 2, kNoisyWindowsToBeSlow = 6;
constexpr size_t kWindowsRemembered = 16;
constexpr size_t kWindowsToKnow = 8;  // so many have a median that one slowdown does not make

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::vector<double> Select(const std::vector<double>& values, const std::vector<size_t>& at) {
  std::vector<double> selected;
  for (const size_t i : at) selected.push_back(values[i]);
  return selected;
}

}  // namespace

StragglerFinder::StragglerFinder(StragglerOptions options, int world_size)
    : options_(std::move(options)),
      now_(static_cast<size_t>(world_size)),
      window_begin_(now_.size()),
      moves_(now_.size()),
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
  NoteMoves();
  for (size_t r = 0; r < now_.size(); ++r) Judge(static_cast<int>(r));
}

std::vector<size_t> StragglerFinder::PeersOf(size_t rank) const {
  std::vector<size_t> peers;
  for (size_t r = 0; r < now_.size(); ++r) {
    const bool same_stage = options_.stage.empty() || options_.stage[r] == options_.stage[rank];
    if (r != rank && same_stage) peers.push_back(r);
  }
  return peers;
}

// How far each rank moved against its peers since the window before, as a share of their work.
void StragglerFinder::NoteMoves() {
  if (rate_before_.empty()) return;
  for (size_t r = 0; r < rate_.size(); ++r) {
    const std::vector<size_t> peers = PeersOf(r);
    if (peers.empty()) continue;
    const double now = Median(Select(rate_, peers)), before = Median(Select(rate_before_, peers));
    if (now <= 0 || before <= 0) continue;
    moves_[r].push_back(std::abs(rate_[r] / now - rate_before_[r] / before));
    if (moves_[r].size() > kWindowsRemembered) moves_[r].pop_front();
  }
}

double StragglerFinder::UsualNoise(size_t rank) const {
  const std::deque<double>& own = moves_[rank];
  if (own.size() < kWindowsToKnow) return 0;
  std::vector<double> all;
  for (const std::deque<double>& moves : moves_) all.insert(all.end(), moves.begin(), moves.end());
  return std::max(Median(std::move(all)), Median({own.begin(), own.end()}));
}

void StragglerFinder::Judge(int rank) {
  const auto mine = static_cast<size_t>(rank);
  const std::vector<size_t> peers = PeersOf(mine);
  if (peers.empty()) return;
  const std::vector<double> now = Select(rate_, peers);
  const double median = Median(now);
  double noise = UsualNoise(mine) * median;
  for (const double rate : now) noise = std::max(noise, std::abs(rate - median));
  if (!rate_before_.empty()) {
    const std::vector<double> before = Select(rate_before_, peers);
    // Steps that are longer for all are no noise; with one peer that cannot be told from it.
    const double scale = peers.size() == 1 ? 1 : median / Median(before);
    for (size_t i = 0; i < now.size(); ++i) {
      noise = std::max(noise, std::abs(now[i] - before[i] * scale));
    }
  }
  const double above = rate_[mine] - median;
  const bool slow = above > options_.excess * median && above > kTimesNoise * noise;
  slow_windows_[mine] = slow ? slow_windows_[mine] + 1 : 0;
  const bool noisy = kTimesNoise * noise > options_.excess * median;
  const int wanted = noisy ? kNoisyWindowsToBeSlow : kWindowsToBeSlow;
  if (slow_windows_[mine] < wanted || told_[mine]) return;
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
