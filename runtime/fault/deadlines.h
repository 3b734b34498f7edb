#pragma once
// How long a job may stand still before it is taken for hung, by what it is doing. Both sides use
// it: a rank, for how long its collectives wait for others, and the supervisor, for how long no
// rank may be a step further.
#include <cstdint>
#include <deque>

#include "runtime/goodput/ledger.h"
#include "runtime/goodput/rank_progress.h"
#include "runtime/job/job.pb.h"

namespace muster::runtime {

struct Deadlines {
  // Of a step: `times` the 99th percentile of the last steps' times. Nothing gets less than
  // `least`.
  double least_seconds = 5, times = 5;
  double start_seconds = 120;  // until all ranks are up; and of the first step
  double save_seconds = 600;   // whatever else there is between steps: loads and saves
  double evaluate_seconds = 600;
};  // a rank knows the rounds of an evaluation, and waits less: see RankDeadline
Deadlines DeadlinesOf(const Communication& communication);

// The times of the last 1,000 steps.
class StepTimes {
 public:
  void Note(int64_t ns, int64_t num_steps = 1);
  int64_t Percentile99() const { return p99_ns_; }  // of fewer than 100 the longest; 0: none yet

 private:
  std::deque<int64_t> times_ns_;
  int64_t p99_ns_ = 0;  // kept: a supervisor asks for it at each look, by rank
};

// In ns. `after_first_step`: the attempt has ended one.
int64_t DeadlineOf(const Deadlines& deadlines, State state, bool after_first_step,
                   const StepTimes& steps);

// On a rank. Not all ranks leave a load at the same time, so the first step may wait as long, nor
// what ends a run, so an evaluation may; saves on the way they leave together. A round of an
// evaluation is waited for like a step, the first one like the first step; the longest of all
// rounds counts, since only some of them meet what makes one long.
class RankDeadline {
 public:
  explicit RankDeadline(const Deadlines& deadlines) : deadlines_(deadlines) {}
  // After each change of the rank's progress, in order: how long it waits for others, in ns.
  int64_t After(const ProgressFacts& facts);

 private:
  const Deadlines deadlines_;
  int64_t OfRound() const;
  StepTimes steps_;
  int64_t steps_done_ = 0, rounds_done_ = 0;
  int64_t longest_round_ns_ = 0;
  int64_t before_ns_ = 0;  // the longest deadline since the last step or round ended
};

}  // namespace muster::runtime
