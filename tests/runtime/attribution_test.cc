#include "runtime/goodput/attribution.h"

#include <gtest/gtest.h>

#include "tests/support/runtime/log_builder.h"

namespace muster::runtime {
namespace {

int64_t Seconds(DeviceNs ns) {
  EXPECT_EQ(ns % kSecondNs, 0);
  return static_cast<int64_t>(ns / kSecondNs);
}

Attribution MustAttribute(const RunLog& log) {
  absl::StatusOr<Attribution> result = Attribute(log);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Attribution{};
}

// Compares a share as a fraction, in integers.
testing::AssertionResult IsShare(DeviceNs part, DeviceNs whole, int64_t numerator,
                                 int64_t denominator) {
  if (part * denominator == whole * numerator) return testing::AssertionSuccess();
  return testing::AssertionFailure() << static_cast<double>(part) / static_cast<double>(whole)
                                     << " is not " << numerator << "/" << denominator;
}

class EightLogs : public testing::TestWithParam<int> {
 protected:
  Attribution Of(char name) const { return MustAttribute(LogOf(name, GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(WorldSizes, EightLogs, testing::Values(1, 3));

TEST_P(EightLogs, ACleanRunIsAllProductive) {
  const Attribution a = Of('A');
  EXPECT_EQ(a.total.At(StepFate::kProductive), a.allocated);
  EXPECT_EQ(a.productive_flops, 1e15 * GetParam());
  EXPECT_EQ(*a.possible_flops, 1e15 * GetParam());
}

TEST_P(EightLogs, BCrashMidStepIs62Point5Percent) {
  const Attribution b = Of('B');
  EXPECT_TRUE(IsShare(b.total.At(StepFate::kProductive), b.allocated, 625, 1000));
  EXPECT_EQ(Seconds(b.total.At(StepFate::kRework)), 90 * GetParam());  // steps 40 to 48
  EXPECT_EQ(Seconds(b.total.lost_partial), 5 * GetParam());
  EXPECT_EQ(Seconds(b.total.At(State::kDetect)), 300 * GetParam());
}

TEST_P(EightLogs, CCrashAfterACheckpointIsTwoThirds) {
  const Attribution c = Of('C');
  EXPECT_TRUE(IsShare(c.total.At(StepFate::kProductive), c.allocated, 2, 3));
  EXPECT_EQ(c.total.At(StepFate::kRework), 0);
}

TEST_P(EightLogs, DDataStallsAreNotProductiveCompute) {
  const Attribution d = Of('D');
  const auto& productive = d.total.step[static_cast<int>(StepFate::kProductive)];
  EXPECT_TRUE(IsShare(productive[parallel::kCompute], d.allocated, 5, 6));
  EXPECT_TRUE(IsShare(productive[parallel::kData], d.allocated, 1, 6));
}

TEST_P(EightLogs, ECrashInASaveIsCheckpointAndRework) {
  const Attribution e = Of('E');
  EXPECT_TRUE(IsShare(e.total.At(State::kCheckpointStall), e.allocated, 4, 100));
  EXPECT_TRUE(IsShare(e.total.At(StepFate::kRework), e.allocated, 1, 15));
  EXPECT_TRUE(IsShare(e.total.At(StepFate::kProductive), e.allocated, 2, 3));
}

TEST_P(EightLogs, FElapsedEndsAtDeath) {
  const Attribution f = Of('F');
  EXPECT_EQ(Seconds(f.allocated), 604 * GetParam());
  EXPECT_EQ(Seconds(f.total.At(StepFate::kProductive)), 600 * GetParam());
  EXPECT_EQ(Seconds(f.total.lost_partial), 4 * GetParam());
}

TEST_P(EightLogs, GAllProgressLostWastesAQuarter) {
  const Attribution g = Of('G');
  EXPECT_TRUE(IsShare(g.total.At(StepFate::kRework), g.allocated, 1, 4));
  EXPECT_TRUE(IsShare(g.total.At(StepFate::kProductive), g.allocated, 1, 2));
}

TEST_P(EightLogs, HASecondRestartFurtherBackIs10Of17) {
  const Attribution h = Of('H');
  EXPECT_TRUE(IsShare(h.total.At(StepFate::kProductive), h.allocated, 10, 17));
  // 30 to 49 of the first attempt, 40 to 49 of the second.
  EXPECT_EQ(Seconds(h.total.At(StepFate::kRework)), 300 * GetParam());
  EXPECT_EQ(h.attempts[0].rework_steps, 20);
  EXPECT_EQ(h.attempts[1].rework_steps, 10);
  EXPECT_EQ(h.attempts[2].rework_steps, 0);
}

TEST_P(EightLogs, EachStepSurvivesOnce) {
  for (const char name : {'A', 'B', 'C', 'D', 'E', 'G', 'H'}) {
    const Attribution run = Of(name);
    EXPECT_EQ(run.productive_steps, 100) << name;
    EXPECT_EQ(run.productive_tokens, 100'000) << name;
    ASSERT_EQ(run.steps.size(), 100u) << name;
    for (int step = 0; step < 100; ++step) EXPECT_EQ(run.steps[step].step, step);
  }
}

TEST(Attribution, ASkippedStepIsNamedSo) {
  LogBuilder log;
  const Attribution run =
      MustAttribute(log.BeginAttempt().Steps(0, 3).SkippedStep(3).Steps(4, 6).Ends(0).Build());
  EXPECT_EQ(Seconds(run.total.At(StepFate::kSkipped)), 10);
  EXPECT_EQ(Seconds(run.total.At(StepFate::kProductive)), 50);
  EXPECT_EQ(run.productive_steps, 5);
}

TEST(Attribution, GoingBackWithinAnAttemptIsReworkToo) {
  LogBuilder log;
  const Attribution run =
      MustAttribute(log.BeginAttempt().Steps(0, 10).Steps(6, 12).Steps(8, 20).Ends(0).Build());
  // 6 to 9 of the first pass, 8 to 11 of the second.
  EXPECT_EQ(Seconds(run.total.At(StepFate::kRework)), 80);
  EXPECT_EQ(run.productive_steps, 20);
  EXPECT_EQ(Seconds(run.steps[8].lost_device_ns), 20);
}

TEST(Attribution, AnAttemptThatDiesBeforeAStepRollsNothingBack) {
  LogBuilder log;
  const Attribution run = MustAttribute(log.BeginAttempt()
                                            .Steps(0, 10)
                                            .Dies(5)
                                            .BeginAttempt()
                                            .In(State::kInitRuntime, 7)
                                            .Dies(3)
                                            .BeginAttempt()
                                            .In(State::kInitRuntime, 7)
                                            .Steps(10, 20)
                                            .Ends(0)
                                            .Build());
  EXPECT_EQ(run.total.At(StepFate::kRework), 0);
  EXPECT_EQ(Seconds(run.total.At(State::kDetect)), 8);
  EXPECT_FALSE(run.attempts[1].first_step.has_value());
}

TEST(Attribution, AStepThatNotAllRanksEndedIsLost) {
  LogBuilder builder(2);
  RunLog log = builder.BeginAttempt().Steps(0, 5).Dies(0).Build();
  log.attempts[0].ranks[1].steps.back().finished = false;
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(Seconds(run.total.lost_partial), 20);
  EXPECT_EQ(run.productive_steps, 4);
  EXPECT_EQ(run.steps.back().fate, StepFate::kLostPartial);
}

TEST(Attribution, AStepThatALaterAttemptBuiltUponIsComplete) {
  LogBuilder builder(2);
  RunLog log =
      builder.BeginAttempt().Steps(0, 5).Dies(0).BeginAttempt().Steps(5, 6).Ends(0).Build();
  log.attempts[0].ranks[1].steps.back().finished = false;  // its record was damaged
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(Seconds(run.total.lost_partial), 10);
  EXPECT_EQ(run.productive_steps, 6);
}

TEST(Attribution, AStepWhoseRecordOneRanksDiskLostIsNot) {
  LogBuilder builder(2);
  RunLog log = builder.BeginAttempt().Steps(0, 5).Ends(0).Build();
  RankLog& rank = log.attempts[0].ranks[1];
  for (Phase& phase : rank.phases) {
    if (phase.step_index == 2) phase = {.begin_ns = phase.begin_ns, .state = State::kUnknown};
    if (phase.step_index > 2) --phase.step_index;
  }
  rank.steps.erase(rank.steps.begin() + 2);
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(Seconds(run.total.lost_partial), 0);
  EXPECT_EQ(run.productive_steps, 5);
}

TEST(Attribution, ARankWithoutALogIsUnknownThroughout) {
  LogBuilder builder(3);
  RunLog log = builder.BeginAttempt().Steps(0, 10).Ends(0).Build();
  log.attempts[0].ranks.pop_back();
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(Seconds(run.allocated), 300);
  EXPECT_EQ(Seconds(run.total.At(State::kUnknown)), 100);
  EXPECT_EQ(*run.possible_flops, 300e12);
}

TEST(Attribution, LeadIsLaunchAndTailIsTeardownOrDetect) {
  LogBuilder builder(3);
  RunLog log = builder.BeginAttempt().Steps(0, 10).Ends(0).Build();
  std::vector<RankLog>& ranks = log.attempts[0].ranks;
  ranks[0].process_start_ns -= 7 * kSecondNs;  // begins the attempt
  ranks[1].end_ns += 11 * kSecondNs;           // ends it: its last step is longer
  ranks[1].steps.back().time_ns[parallel::kOther] += 11 * kSecondNs;
  ranks[2].exit_code.reset();  // died
  log.attempts[0].kill_ns = ranks[1].end_ns - 4 * kSecondNs;
  log.attempts[0].begin_ns.reset();
  log.attempts[0].end_ns.reset();
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(Seconds(run.allocated), 3 * 118);
  EXPECT_EQ(Seconds(run.total.At(State::kLaunch)), 3 * 7);
  EXPECT_EQ(Seconds(run.total.At(State::kDetect)), 7);
  EXPECT_EQ(Seconds(run.total.At(State::kTeardown)), 11 + 4);
  EXPECT_EQ(run.attempts[0].dead_ranks, std::vector<int>{2});
}

TEST(Attribution, AnUnknownPeakMakesWhatWasPossibleUnknown) {
  RunLog log = LogOf('A', 2);
  log.attempts[0].ranks[1].peak_flops = 0;
  EXPECT_FALSE(MustAttribute(log).possible_flops.has_value());
}

// Attempt a takes `batches[a]` sequences a step.
RunLog WithBatches(RunLog log, const std::vector<int64_t>& batches) {
  for (size_t a = 0; a < log.attempts.size(); ++a) {
    for (RankLog& rank : log.attempts[a].ranks) {
      for (StepExecution& step : rank.steps) {
        step.first_sequence = step.step * batches[a];
        step.num_sequences = batches[a];
      }
    }
  }
  return log;
}

TEST(Attribution, StepsLieWhereTheDataIsWhoeverRunsThem) {
  const Attribution h = MustAttribute(WithBatches(LogOf('H', 2), {8, 8, 8}));
  EXPECT_EQ(h.steps[45].first_sequence, 45 * 8);
  EXPECT_EQ(h.steps[45].num_sequences, 8);
}

TEST(Attribution, AnotherBatchInTheMiddleOfARunIsRefused) {
  const absl::Status status = Attribute(WithBatches(LogOf('B', 2), {8, 16})).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("the batch has changed"), absl::string_view::npos) << status;
}

TEST(Attribution, AnotherBatchFromTheStartOnRollsAllBack) {
  const Attribution g = MustAttribute(WithBatches(LogOf('G', 2), {8, 16}));  // resumed at 0
  EXPECT_EQ(g.attempts[0].rework_steps, 50);
  EXPECT_EQ(g.steps[49].first_sequence, 49 * 16);
}

TEST(Attribution, LogsThatContradictThemselvesAreRefused) {
  const auto refused = [](auto damage) {
    RunLog log = LogOf('B', 2);
    damage(&log);
    const absl::Status status = Attribute(log).status();
    return status.code() == absl::StatusCode::kInvalidArgument &&
           status.message().find("attempt") != absl::string_view::npos;
  };
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[1].ranks[1].phases[2].begin_ns -= 1e15; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[0].ranks[0].end_ns = 0; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[0].ranks[0].steps[3].time_ns[0] += 1; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[0].ranks[1].rank = 0; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[0].ranks[1].rank = 2; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[1].attempt = 0; }));
  EXPECT_TRUE(refused([](RunLog* log) { log->attempts[0].ranks[0].phases[1].step_index = 99; }));
  EXPECT_FALSE(refused([](RunLog*) {}));
}

}  // namespace
}  // namespace muster::runtime
