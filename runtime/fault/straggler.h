#pragma once
// Finds a rank that works longer for a step than its peers, from each rank's own work per step (the
// step less its waits for others, and less what a router gives to some and not to others). Steps
// are looked at in windows: a rank is slow in a window if its mean work exceeds the median of its
// peers by `excess` and by three times the noise, which is the largest of
//   - how far the peers are from their median now, and how far any of them moved against it since
//     the window before;
//   - the median of how far ranks moved so in the last windows, all of them, and the rank itself: a
//     slow rank moves once, a disturbed one again and again.
// It is named after two slow windows in a row: if it works 10 % longer, within 20 steps, wherever
// in a window that begins. If three times the noise exceeds `excess`, two windows prove nothing: it
// is named after six.
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace muster::runtime {

struct StragglerOptions {
  double excess = 0.07;
  int window_steps = 6;
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
  std::vector<size_t> PeersOf(size_t rank) const;
  void NoteMoves();
  double UsualNoise(size_t rank) const;

  const StragglerOptions options_;
  std::vector<Point> now_, window_begin_;
  std::vector<double> rate_, rate_before_;  // work per step; empty: no window yet
  std::vector<std::deque<double>> moves_;   // by rank: against its peers, in the last windows
  std::vector<int> slow_windows_;           // in a row
  std::vector<bool> told_;
  std::vector<SlowRank> found_;
};

}  // namespace muster::runtime
