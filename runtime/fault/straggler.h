#pragma once
// Finds a rank that works longer for a step than its peers, from each rank's own work per step (the
// step less its waits for others). Steps are looked at in windows: a rank is slow if in two windows
// in a row its mean work exceeds the median of its peers by `excess` and by three times the noise.
// The noise is how far the peers are from their median, and how far any of them moved against it
// from one window to the next. So a 10 % slow rank is named within 2 windows and one step, and a
// noisy but even job names nobody.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace muster::runtime {

struct StragglerOptions {
  double excess = 0.07;
  int window_steps = 8;
  std::vector<int> stage;  // by rank: ranks of one pipeline stage are peers; empty: all are
};

struct SlowRank {
  int rank = 0;
  double excess = 0;  // 0.1: 10 % above the median of its peers
};

class StragglerFinder {
 public:
  StragglerFinder(StragglerOptions options, int world_size);
  // Sums over all steps that the rank has ended in this attempt.
  void See(int rank, int64_t steps_done, int64_t busy_ns);
  // A rank that was not told before.
  std::optional<SlowRank> Next();

 private:
  struct Point {
    int64_t steps = 0, busy_ns = 0;
  };
  void CloseWindow();
  void Judge(int rank);

  const StragglerOptions options_;
  std::vector<Point> now_, window_begin_;
  std::vector<double> rate_, rate_before_;  // work per step; empty: no window yet
  std::vector<int> slow_windows_;           // in a row
  std::vector<bool> told_;
  std::vector<SlowRank> found_;
};

}  // namespace muster::runtime
