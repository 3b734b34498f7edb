#pragma once
// The first half of a simulated run (run_simulator.h): what the ranks of an attempt would do if
// nothing went wrong.
#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "parallel/comm/time_category.h"
#include "runtime/goodput/ledger.h"

namespace muster::runtime {

using StepParts = std::array<int64_t, parallel::kNumTimeCategories>;

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int64_t Between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool Chance(double p) { return std::bernoulli_distribution(p)(random_); }

 private:
  std::mt19937_64 random_;
};

// What a rank does from `begin_ns` until its next span begins.
struct SimulatedSpan {
  int64_t begin_ns = 0;
  State state = State::kUnknown;
  int execution = -1;  // kStep: index of the simulation's executions
  StepParts parts{};   // kStep: they last until the next span
};

struct RankPlan {
  int64_t process_start_ns = 0, ledger_ns = 0, end_ns = 0;
  std::vector<SimulatedSpan> spans;
};

// One pass through a step, by all ranks.
struct SimulatedExecution {
  int64_t step = 0;
  bool skipped = false, complete = false, rolled_back = false;
  double flops = 0;  // of a rank
};

struct SimulatedSave {
  int64_t step = 0, snapshot_ns = 0, committed_ns = 0;
  size_t executions_before = 0;  // those from here on are not in it
};

struct AttemptPlan {
  std::vector<RankPlan> ranks;
  std::vector<SimulatedSave> saves;
  int rewinds = 0, stalls = 0, skipped = 0;
};

struct PlanOptions {
  int ranks = 1;
  int64_t begin_ns = 0, first_step = 1, last_step = 1, checkpoint_every = 1;
  bool stops = false;  // asked to, after last_step: saves, and does not evaluate
};

// Appends the executions to `executions`.
AttemptPlan PlanAttempt(const PlanOptions& options, Dice& dice,
                        std::vector<SimulatedExecution>* executions);

}  // namespace muster::runtime
