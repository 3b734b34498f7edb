#include "tests/support/runtime/simulated_plan.h"

#include <algorithm>

namespace muster::runtime {
namespace {

StepParts Split(int64_t ns, Dice& dice) {
  StepParts parts{};
  for (int cut = 0; cut < 5; ++cut) {
    const int64_t part = dice.Between(0, ns);
    parts[static_cast<size_t>(dice.Between(0, parallel::kNumTimeCategories - 1))] += part;
    ns -= part;
  }
  parts[parallel::kCompute] += ns;
  return parts;
}

int64_t LastEnd(const std::vector<RankPlan>& ranks) {
  int64_t last = 0;
  for (const RankPlan& rank : ranks) last = std::max(last, rank.end_ns);
  return last;
}

class Planner {
 public:
  Planner(const PlanOptions& options, Dice& dice, std::vector<SimulatedExecution>* executions)
      : options_(options), dice_(dice), executions_(*executions) {}

  AttemptPlan Run() {
    plan_.ranks.resize(static_cast<size_t>(options_.ranks));
    for (RankPlan& rank : plan_.ranks) {
      rank.process_start_ns = options_.begin_ns + dice_.Between(0, 5'000'000);
      rank.ledger_ns = rank.process_start_ns + dice_.Between(0, 2'000'000);
      rank.end_ns = rank.ledger_ns + dice_.Between(0, 1'000'000);
    }
    for (const State state : {State::kInitRuntime, State::kInitModel, State::kCheckpointLoad,
                              State::kDataSeek, State::kWarmup}) {
      Phase(state, 10'000'000);
    }
    for (int64_t step = options_.first_step; step <= options_.last_step; ++step) {
      Step(step);
      const bool last = options_.stops && step == options_.last_step;
      if (!last && dice_.Chance(0.1)) Phase(State::kEval, 3'000'000);
      if (last || step % options_.checkpoint_every == 0) Save(step);
      if (!last && dice_.Chance(0.03)) {  // go back without a restart
        step = std::max(options_.first_step, step - dice_.Between(0, 3)) - 1;
        ++plan_.rewinds;
      }
    }
    Phase(options_.stops ? State::kDrain : State::kTeardown, 1'000'000);
    return std::move(plan_);
  }

 private:
  // A phase that all ranks are in, and leave about together.
  void Phase(State state, int64_t longest_ns) {
    for (RankPlan& rank : plan_.ranks) {
      rank.spans.push_back({rank.end_ns, state, -1, {}});
      rank.end_ns += dice_.Between(0, longest_ns);
    }
  }

  void Step(int64_t step) {
    const int index = static_cast<int>(executions_.size());
    executions_.push_back({.step = step,
                           .skipped = dice_.Chance(0.05),
                           .flops = static_cast<double>(dice_.Between(1, 1'000'000))});
    plan_.skipped += executions_.back().skipped ? 1 : 0;
    const int64_t end = LastEnd(plan_.ranks) + dice_.Between(100'000, 5'000'000);
    const int64_t stall = dice_.Chance(0.03) ? dice_.Between(20'000'000, 200'000'000) : 0;
    plan_.stalls += stall > 0 ? 1 : 0;
    for (RankPlan& rank : plan_.ranks) {
      const int64_t own_end = end + stall + dice_.Between(0, 20'000);
      StepParts parts = Split(own_end - stall - rank.end_ns, dice_);
      parts[parallel::kData] += stall;  // all wait for the same file
      rank.spans.push_back({rank.end_ns, State::kStep, index, parts});
      // Behind a step a rank is in no named state until it enters one.
      rank.spans.push_back({own_end, State::kUnknown, -1, {}});
      rank.end_ns = own_end + (dice_.Chance(0.5) ? 0 : dice_.Between(0, 5'000));
    }
  }

  // Every rank is past the save before the job goes on.
  void Save(int64_t step) {
    const int64_t snapshot_ns = plan_.ranks[0].end_ns;
    Phase(State::kCheckpointStall, 8'000'000);
    const int64_t committed_ns = LastEnd(plan_.ranks);
    for (RankPlan& rank : plan_.ranks) rank.end_ns = committed_ns;
    plan_.saves.push_back({step, snapshot_ns, committed_ns, executions_.size()});
  }

  const PlanOptions options_;
  Dice& dice_;
  std::vector<SimulatedExecution>& executions_;
  AttemptPlan plan_;
};

}  // namespace

AttemptPlan PlanAttempt(const PlanOptions& options, Dice& dice,
                        std::vector<SimulatedExecution>* executions) {
  return Planner(options, dice, executions).Run();
}

}  // namespace muster::runtime
