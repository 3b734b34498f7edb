#pragma once
// Finds a rank that needs longer than its peers for the same work, from what each rank worked in
// each step (StepWork: its own clock, without waits). Pure.
//
//   excess z = log(worked / expected), where peers are the other ranks of the pipeline stage and
//   expected = median of the peers' even work + own rows x median of the peers' time for a row
//
// so a rank whose experts are popular has more to do, and is not slow for that. Then, by rank, a
// CUSUM (Page, "Continuous inspection schemes", 1954) over the steps:
//
//   sum = max(0, sum + clip(z - k, -c, c));  slow if sum > h
//
// It is 0 most of the time while z < k, and rises by z - k a step if the rank is slow. c makes it a
// matter of many steps: nothing that lasts fewer than h / c steps can name a rank, however large.
// The threshold h is the largest of
//   - that of a quiet run;
//   - what noise reaches by chance: a sum exceeds h with exp(-2 k h / s^2) (Siegmund, "Sequential
//     analysis", 1985, ch. 2), s^2 being the variance of z, from the run itself;
//   - one and a half times what any rank's sum reached before it fell again: what this host does to
//     its ranks from time to time. It is forgotten over some hundreds of steps.
#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "runtime/goodput/rank_progress.h"

namespace muster::runtime {

struct StragglerOptions {
  double reference = 0.045;       // k: by so much a rank may be slower for ever
  double clip = 0.05;             // c
  double least_threshold = 0.45;  // h of a quiet run: 10 % more work is named after 9 to 12 steps
  double false_alarm_log = 7;     // 2 k h / s^2, at least
  std::vector<int> stage;         // by rank: ranks of one pipeline stage are peers; empty: all are
};

struct SlowRank {
  int rank = 0;
  double excess = 0;  // 0.1: 10 % above what its peers would need
};

// z of each of `work`, which are peers, in one step; 0 where nothing can be said (a rank alone, no
// work).
std::vector<double> ExcessOverPeers(const std::vector<StepWork>& work);

// The standard deviation s of a step's z, by medians, so that some slow steps hardly count. If
// noise lasts, means of several steps deviate by more than independent steps would make them: then
// s is that of independent steps with such means.
class ExcessNoise {
 public:
  void See(double excess);
  bool known() const;
  // The newest `in_doubt` steps, which may be of a slow rank, shall not pass for noise.
  double Deviation(int in_doubt) const;

 private:
  std::deque<double> steps_;  // z
};

class StragglerFinder {
 public:
  StragglerFinder(StragglerOptions options, int world_size);
  // The rank has ended `steps_done` steps in this attempt; `work` is that of ProgressFacts.
  void See(int rank, int64_t steps_done, const std::array<StepWork, kStepsRemembered>& work);
  // A rank that was not told before.
  std::optional<SlowRank> Next();

 private:
  struct Rank {
    std::deque<StepWork> work;  // of steps [first, first + size), not judged yet
    int64_t first = 0;
    ExcessNoise noise;
    double sum = 0, peak = 0;  // of the CUSUM; the most since it fell to half of that
    double excess_sum = 0;     // of z, since the sum was 0
    int num_steps = 0;         // since then
    bool told = false;
  };
  void JudgeReady(const std::vector<int>& peers);
  void JudgeStep(const std::vector<int>& peers);
  void Add(int rank, double excess);
  void Judge(int rank, const std::vector<int>& peers);

  const StragglerOptions options_;
  std::vector<std::vector<int>> stages_;  // ranks of each
  std::vector<size_t> stage_of_;
  std::vector<Rank> ranks_;
  double past_peak_ = 0;  // of sums that fell again or named a rank
  std::deque<SlowRank> found_;
};

}  // namespace muster::runtime
