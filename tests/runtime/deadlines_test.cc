#include "runtime/fault/deadlines.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace muster::runtime {
namespace {

constexpr int64_t kMs = 1'000'000, kSecond = 1'000 * kMs;

StepTimes Times(int64_t num, int64_t each_ns) {
  StepTimes times;
  times.Note(each_ns, num);
  return times;
}

TEST(StepTimes, ThePercentileOfFewStepsIsTheLongestAndOutliersOfManyDoNotCount) {
  EXPECT_EQ(StepTimes().Percentile99(), 0);
  StepTimes times = Times(50, 100 * kMs);
  times.Note(kSecond);
  EXPECT_EQ(times.Percentile99(), kSecond);
  times.Note(100 * kMs, 500);
  EXPECT_EQ(times.Percentile99(), 100 * kMs) << "one of 551";
  times.Note(200 * kMs, 1000);
  EXPECT_EQ(times.Percentile99(), 200 * kMs) << "steps of long ago are forgotten";
}

TEST(DeadlineOf, AStepGetsFiveTimesItsUsualLengthButNotLessThanTheLeast) {
  const Deadlines deadlines;
  const auto of_step = [&](const StepTimes& times) {
    return DeadlineOf(deadlines, State::kStep, /*after_first_step=*/true, times);
  };
  EXPECT_EQ(of_step(Times(1000, 100 * kMs)), 5 * kSecond);
  EXPECT_EQ(of_step(Times(1000, 3 * kSecond)), 15 * kSecond);
}

TEST(DeadlineOf, OtherPhasesHaveTheirOwn) {
  Deadlines deadlines{.start_seconds = 100, .save_seconds = 200, .evaluate_seconds = 300};
  const StepTimes times = Times(100, 100 * kMs);
  const auto seconds = [&](State state, bool after_first_step = true) {
    return DeadlineOf(deadlines, state, after_first_step, times) / kSecond;
  };
  EXPECT_EQ(seconds(State::kInitRuntime), 100);
  EXPECT_EQ(seconds(State::kStep, /*after_first_step=*/false), 100);
  for (const State state : {State::kCheckpointStall, State::kCheckpointLoad, State::kInitModel,
                            State::kDataSeek, State::kTeardown}) {
    EXPECT_EQ(seconds(state), 200) << Name(state);
  }
  EXPECT_EQ(seconds(State::kEval), 300);
  deadlines.least_seconds = 250;
  EXPECT_EQ(seconds(State::kCheckpointStall), 250) << "nothing has less than the least";
  EXPECT_EQ(seconds(State::kEval), 300);
}

TEST(DeadlineOf, TheConfigDecides) {
  const Deadlines defaults = DeadlinesOf(Communication());
  EXPECT_EQ(defaults.least_seconds, Deadlines().least_seconds);
  EXPECT_EQ(defaults.start_seconds, Deadlines().start_seconds);
  EXPECT_EQ(defaults.save_seconds, Deadlines().save_seconds);
  EXPECT_EQ(defaults.evaluate_seconds, Deadlines().evaluate_seconds);
  Communication config;
  config.set_deadline_seconds(1);
  config.set_start_deadline_seconds(2);
  config.set_save_deadline_seconds(3);
  config.set_evaluate_deadline_seconds(4);
  const Deadlines deadlines = DeadlinesOf(config);
  EXPECT_EQ(deadlines.least_seconds, 1);
  EXPECT_EQ(deadlines.start_seconds, 2);
  EXPECT_EQ(deadlines.save_seconds, 3);
  EXPECT_EQ(deadlines.evaluate_seconds, 4);
}

// A rank's life: init, load, steps of 100 ms, a save between them.
TEST(RankDeadline, TheStepBehindALoadWaitsAsLongAsTheLoadAndOthersDoNot) {
  RankDeadline deadline({.start_seconds = 100, .save_seconds = 200, .evaluate_seconds = 300});
  ProgressFacts facts;
  const auto seconds_in = [&](State state) {
    facts.state = state;
    return deadline.After(facts) / kSecond;
  };
  const auto end_step = [&] {
    ++facts.steps_done;
    facts.last_step_ns = 100 * kMs;
    return seconds_in(State::kUnknown);
  };
  EXPECT_EQ(seconds_in(State::kInitRuntime), 100);
  EXPECT_EQ(seconds_in(State::kCheckpointLoad), 200);
  EXPECT_EQ(seconds_in(State::kStep), 200) << "another rank may still load";
  EXPECT_EQ(end_step(), 5) << "all ranks have ended the step together";
  EXPECT_EQ(seconds_in(State::kStep), 5);
  EXPECT_EQ(end_step(), 5);
  EXPECT_EQ(seconds_in(State::kCheckpointStall), 200);
  EXPECT_EQ(seconds_in(State::kStep), 5) << "all ranks have left the save together";
  EXPECT_EQ(end_step(), 5);
}

// Steps of 100 ms, and evaluations of rounds.
TEST(RankDeadline, ARoundOfAnEvaluationIsWaitedForLikeAStep) {
  RankDeadline deadline({.start_seconds = 100, .save_seconds = 200, .evaluate_seconds = 300});
  ProgressFacts facts;
  const auto enter = [&](State state) {
    facts.state = state;
    return deadline.After(facts) / kSecond;
  };
  const auto end_step = [&] {
    ++facts.steps_done;
    facts.last_step_ns = 100 * kMs;
    return enter(State::kUnknown);
  };
  const auto begin_round = [&] {
    facts.in_round = true;
    return deadline.After(facts) / kSecond;
  };
  const auto end_round = [&](int64_t ns) {
    facts.in_round = false;
    ++facts.rounds_done;
    facts.last_round_ns = ns;
    (void)deadline.After(facts);
  };
  EXPECT_EQ(end_step(), 5);
  EXPECT_EQ(enter(State::kEval), 300) << "what is no round, like a trace, has it all";
  EXPECT_EQ(begin_round(), 100) << "the first one, as the first step";
  end_round(2 * kSecond);
  EXPECT_EQ(begin_round(), 10) << "5 of the longest";
  end_round(200 * kMs);
  EXPECT_EQ(begin_round(), 10) << "5 of the longest";
  end_round(200 * kMs);
  EXPECT_EQ(enter(State::kStep), 5) << "all ranks have ended the evaluation together";
  EXPECT_EQ(end_step(), 5);
  EXPECT_EQ(enter(State::kCheckpointStall), 200);
  EXPECT_EQ(enter(State::kEval), 300);
  EXPECT_EQ(begin_round(), 200) << "at the end another rank may still save";
  end_round(100 * kSecond);
  EXPECT_EQ(begin_round(), 300) << "no more than an evaluation may take";
  end_round(100 * kMs);
}

TEST(RankDeadline, ARoundHasTheLeastThatAnythingHas) {
  RankDeadline deadline({.least_seconds = 7, .start_seconds = 1, .evaluate_seconds = 1});
  ProgressFacts facts{.state = State::kEval, .steps_done = 1, .in_round = true};
  EXPECT_EQ(deadline.After(facts) / kSecond, 7);
  facts.rounds_done = 1;
  EXPECT_EQ(deadline.After(facts) / kSecond, 7);
}

TEST(RankDeadline, TheFirstStepHasTheStartsDeadline) {
  RankDeadline deadline({.start_seconds = 100, .save_seconds = 1, .evaluate_seconds = 1});
  ProgressFacts facts{.state = State::kStep, .step = 1};
  EXPECT_EQ(deadline.After(facts), 100 * kSecond);
}

}  // namespace
}  // namespace muster::runtime
