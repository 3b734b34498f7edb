#include "runtime/fault/deadlines.h"

#include <algorithm>
#include <vector>

namespace muster::runtime {
namespace {

constexpr size_t kRememberedSteps = 1000;

int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

double SecondsOf(const Deadlines& deadlines, State state, bool after_first_step,
                 const StepTimes& steps) {
  switch (state) {
    case State::kStep:
    case State::kUnknown:  // between two steps
      if (!after_first_step) return deadlines.start_seconds;
      return deadlines.times * static_cast<double>(steps.Percentile99()) * 1e-9;
    case State::kAllocWait:
    case State::kLaunch:
    case State::kInitRuntime:
    case State::kWarmup:
      return deadlines.start_seconds;
    case State::kEval:
      return deadlines.evaluate_seconds;
    default:
      return deadlines.save_seconds;
  }
}

}  // namespace

Deadlines DeadlinesOf(const Communication& communication) {
  return {.least_seconds = communication.deadline_seconds(),
          .start_seconds = communication.start_deadline_seconds(),
          .save_seconds = communication.save_deadline_seconds(),
          .evaluate_seconds = communication.evaluate_deadline_seconds()};
}

void StepTimes::Note(int64_t ns, int64_t num_steps) {
  times_ns_.insert(times_ns_.end(), static_cast<size_t>(num_steps), ns);
  while (times_ns_.size() > kRememberedSteps) times_ns_.pop_front();
  std::vector<int64_t> times(times_ns_.begin(), times_ns_.end());
  const auto p99 = times.begin() + static_cast<std::ptrdiff_t>(times.size() * 99 / 100);
  std::nth_element(times.begin(), p99, times.end());
  p99_ns_ = *p99;
}

int64_t DeadlineOf(const Deadlines& deadlines, State state, bool after_first_step,
                   const StepTimes& steps) {
  const double seconds = SecondsOf(deadlines, state, after_first_step, steps);
  return Ns(std::max(deadlines.least_seconds, seconds));
}

int64_t RankDeadline::OfRound() const {
  const int64_t longest_ns = std::max(steps_.Percentile99(), longest_round_ns_);
  const double seconds = rounds_done_ == 0
                             ? deadlines_.start_seconds
                             : deadlines_.times * static_cast<double>(longest_ns) * 1e-9;
  return Ns(std::max(deadlines_.least_seconds, std::min(seconds, deadlines_.evaluate_seconds)));
}

int64_t RankDeadline::After(const ProgressFacts& facts) {
  if (facts.steps_done > steps_done_) {
    steps_.Note(facts.last_step_ns, facts.steps_done - steps_done_);
    steps_done_ = facts.steps_done;
    before_ns_ = 0;
  }
  if (facts.rounds_done > rounds_done_) {
    rounds_done_ = facts.rounds_done;
    longest_round_ns_ = std::max(longest_round_ns_, facts.last_round_ns);
    before_ns_ = 0;
  }
  const int64_t now_ns = facts.in_round
                             ? OfRound()
                             : DeadlineOf(deadlines_, facts.state, facts.steps_done > 0, steps_);
  // All ranks leave saves on the way together, and what an evaluation does beside its rounds.
  const bool steps = facts.state == State::kStep || facts.state == State::kUnknown;
  if (steps && facts.steps_done > 0) return now_ns;
  if (facts.state == State::kEval && !facts.in_round) return std::max(before_ns_, now_ns);
  before_ns_ = std::max(before_ns_, now_ns);
  return before_ns_;
}

}  // namespace muster::runtime
