// What each step is charged with, and the goodput that follows from it.
#include "runtime/goodput/charge.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/goodput/report.h"
#include "tests/support/runtime/log_builder.h"

namespace muster::runtime {
namespace {

RunReport MustReport(RunLog log, const ReportOptions& options = {}) {
  absl::StatusOr<RunReport> report = MakeReport("runs/example", {std::move(log), {}}, options);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *std::move(report) : RunReport{};
}

Attribution MustAttribute(const RunLog& log) {
  absl::StatusOr<Attribution> result = Attribute(log);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Attribution{};
}

// Charges in seconds of the steps [first, last]: equal in all of them.
struct Charges {
  int64_t first, last;
  int64_t execution, rework, failure;
};

class ChargesOfEightLogs : public testing::TestWithParam<int> {
 protected:
  // Of a step: what is wanted, for each device.
  void Expect(char name, const std::vector<Charges>& wanted, Uncharged rest) const {
    const int devices = GetParam();
    const Attribution run = MustAttribute(LogOf(name, devices));
    int64_t steps = 0;
    for (const Charges& each : wanted) {
      steps += each.last - each.first + 1;
      DeviceNs failure = 0;
      for (int64_t number = each.first; number <= each.last; ++number) {
        const AttributedStep& step = run.steps.at(static_cast<size_t>(number));
        ASSERT_EQ(step.step, number);
        EXPECT_EQ(step.charge.execution, each.execution * devices * kSecondNs) << name << number;
        EXPECT_EQ(step.charge.rework, each.rework * devices * kSecondNs) << name << number;
        EXPECT_EQ(step.charge.start_up, 0);
        failure += step.charge.failure;
        // Even to a nanosecond, and what is left on the first.
        const int64_t sharers = each.last - each.first + 1;
        const DeviceNs share = DeviceNs{each.failure} * devices * kSecondNs / sharers;
        if (number == each.first) continue;
        EXPECT_EQ(step.charge.failure, share) << name << number;
      }
      EXPECT_EQ(failure, each.failure * devices * kSecondNs) << name;
    }
    EXPECT_EQ(static_cast<size_t>(steps), run.steps.size()) << name;
    EXPECT_EQ(run.uncharged.lost_partial, rest.lost_partial * devices * kSecondNs) << name;
    EXPECT_EQ(run.uncharged.checkpoint_stall, rest.checkpoint_stall * devices * kSecondNs) << name;
    EXPECT_EQ(run.uncharged.Total(), rest.Total() * devices * kSecondNs) << name;
    EXPECT_TRUE(CheckConserved(run).ok()) << CheckConserved(run);
  }
};
INSTANTIATE_TEST_SUITE_P(WorldSizes, ChargesOfEightLogs, testing::Values(1, 3));

TEST_P(ChargesOfEightLogs, ACleanRunPaysItsExecutions) { Expect('A', {{0, 99, 10, 0, 0}}, {}); }

TEST_P(ChargesOfEightLogs, BRolledBackStepsShareTheFailure) {
  Expect('B', {{0, 39, 10, 0, 0}, {40, 48, 10, 10, 505}, {49, 99, 10, 0, 0}}, {.lost_partial = 5});
}

TEST_P(ChargesOfEightLogs, CTheFirstNewStepPaysAFailureThatUndidNothing) {
  Expect('C', {{0, 39, 10, 0, 0}, {40, 40, 10, 0, 500}, {41, 99, 10, 0, 0}}, {});
}

TEST_P(ChargesOfEightLogs, DStallsAreTheStepsOwn) { Expect('D', {{0, 99, 12, 0, 0}}, {}); }

TEST_P(ChargesOfEightLogs, EASaveIsChargedToNoStep) {
  Expect('E', {{0, 49, 10, 0, 0}, {50, 59, 10, 10, 340}, {60, 99, 10, 0, 0}},
         {.checkpoint_stall = 60});
}

TEST_P(ChargesOfEightLogs, FADeathThatNobodyFollowedChargesNoStep) {
  const Attribution run = MustAttribute(LogOf('F', GetParam()));
  for (int64_t step = 0; step < 60; ++step) {
    EXPECT_EQ(run.steps[static_cast<size_t>(step)].charge.Total(), 10 * GetParam() * kSecondNs);
  }
  EXPECT_EQ(run.steps[60].charge.Total(), 0);
  EXPECT_EQ(run.uncharged.Total(), 4 * GetParam() * kSecondNs);
}

TEST_P(ChargesOfEightLogs, GAllStepsShareWhatUndidThemAll) {
  Expect('G', {{0, 49, 10, 10, 500}, {50, 99, 10, 0, 0}}, {});
}

TEST_P(ChargesOfEightLogs, HStepsPayForEachFailureThatUndidThem) {
  // The first failure undid 40 to 49, the second 30 to 49; 200 s each.
  Expect(
      'H',
      {{0, 29, 10, 0, 0}, {30, 39, 10, 10, 100}, {40, 49, 10, 20, 200 + 100}, {50, 99, 10, 0, 0}},
      {});
}

TEST(StepGoodput, IsTheShareOfItsChargeAtThePeak) {
  const auto goodput = [](char name, int64_t step) {
    return StepGoodput(MustAttribute(LogOf(name, 2)).steps.at(static_cast<size_t>(step))).value();
  };
  EXPECT_DOUBLE_EQ(goodput('A', 7), 1);
  EXPECT_DOUBLE_EQ(goodput('C', 40), 10. / 510);
  EXPECT_DOUBLE_EQ(goodput('D', 7), 10. / 12);
  EXPECT_DOUBLE_EQ(goodput('E', 55), 10. / 54);
  EXPECT_DOUBLE_EQ(goodput('G', 20), 10. / 30);
  EXPECT_DOUBLE_EQ(goodput('H', 45), 10. / 60);
  EXPECT_FALSE(StepGoodput(MustAttribute(LogOf('F')).steps.back()).has_value());  // unfinished
}

TEST(StepsGoodput, TheMeanByChargesIsTheRunsOverWhatWasChargedAndFactorsExactly) {
  for (const char name : {'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'}) {
    const RunReport report = MustReport(LogOf(name, 3));
    const Attribution& run = report.attribution;
    double weighted = 0;
    DeviceNs charged = 0;
    for (const AttributedStep& step : run.steps) {
      const double charge = static_cast<double>(step.charge.Total());
      weighted += charge * StepGoodput(step).value_or(0);
      charged += step.charge.Total();
    }
    EXPECT_EQ(report.steps.charged, charged) << name;
    EXPECT_NEAR(*report.steps.mean, weighted / static_cast<double>(charged), 1e-14) << name;
    const double over_all = *report.goodput * static_cast<double>(run.allocated);
    EXPECT_NEAR(*report.steps.mean * static_cast<double>(charged), over_all, 1e-14 * over_all);
    const StepsGoodput& steps = report.steps;
    EXPECT_NEAR(steps.availability * steps.non_stall * steps.non_rework * *steps.mfu, *steps.mean,
                1e-15)
        << name;
  }
}

TEST(StepsGoodput, AndThatOfTheWholeRunWhereAllIsCharged) {
  for (const char name : {'A', 'C', 'D', 'G', 'H'}) {
    const RunReport report = MustReport(LogOf(name, 2));
    EXPECT_NEAR(*report.steps.mean, *report.goodput, 1e-15) << name;
    EXPECT_NEAR(report.steps.availability, report.availability, 1e-15) << name;
    EXPECT_NEAR(report.steps.non_rework, report.non_rework, 1e-15) << name;
  }
}

LogBuilder& Start(LogBuilder& log) {
  return log.BeginAttempt().In(State::kInitRuntime, 4).In(State::kInitModel, 6);
}

TEST(Charges, TheRunsStartUpIsALineOfItsOwn) {
  LogBuilder log;
  const Attribution run = MustAttribute(Start(log).Steps(1, 8).Ends(0).Build());
  EXPECT_EQ(run.uncharged.start_up, 10 * kSecondNs);
  EXPECT_EQ(run.uncharged.Total(), 10 * kSecondNs);
}

TEST(Charges, SoIsTheStartAfterAPlannedEnd) {
  LogBuilder log;
  Start(log).Steps(1, 8).In(State::kTeardown, 2).Ends(75);
  const Attribution run = MustAttribute(Start(log).Steps(8, 12).Ends(0).Build());
  EXPECT_EQ(run.uncharged.start_up, 20 * kSecondNs);
  EXPECT_EQ(run.uncharged.teardown, 2 * kSecondNs);
  for (const AttributedStep& step : run.steps) EXPECT_EQ(step.charge.failure, 0);
}

TEST(Charges, ButAPlannedEndThatLostStepsIsPaidByThem) {
  LogBuilder log;
  Start(log).Steps(1, 8).In(State::kTeardown, 2).Ends(75);
  const Attribution run = MustAttribute(Start(log).Steps(6, 12).Ends(0).Build());
  EXPECT_EQ(run.uncharged.Total(), 10 * kSecondNs);
  EXPECT_EQ(run.steps.at(5).charge.failure, 6 * kSecondNs);  // steps 6 and 7
  EXPECT_EQ(run.steps.at(6).charge.failure, 6 * kSecondNs);
}

TEST(Charges, StartsThatFailedCostTheStepsThatWaitedForThem) {
  LogBuilder log;
  Start(log).Steps(1, 8).Dies(3);
  Start(log).Dies(2);
  Start(log).Dies(1);
  const Attribution run = MustAttribute(Start(log).Steps(6, 12).Ends(0).Build());
  // 3 + 10 + 2 + 10 + 1 + 10 on steps 6 and 7.
  EXPECT_EQ(run.steps.at(5).charge.failure, 18 * kSecondNs);
  EXPECT_EQ(run.steps.at(6).charge.failure, 18 * kSecondNs);
  EXPECT_EQ(run.uncharged.start_up, 10 * kSecondNs);
}

TEST(Charges, AFirstStartThatFailsCostsTheFirstStep) {
  LogBuilder log;
  Start(log).Dies(5);
  const Attribution run = MustAttribute(Start(log).Steps(1, 4).Ends(0).Build());
  EXPECT_EQ(run.uncharged.start_up, 10 * kSecondNs);  // it starts once in any case
  EXPECT_EQ(run.steps.at(0).charge.failure, 15 * kSecondNs);
}

TEST(Charges, AStartThatRestoredButBeganNoStepPassesItsCostOn) {
  LogBuilder builder;
  Start(builder).Steps(1, 8).Dies(3);
  Start(builder).Dies(2);
  RunLog log = Start(builder).Steps(8, 12).Ends(0).Build();
  log.attempts[1].resume_step = 8;
  const Attribution run = MustAttribute(log);
  EXPECT_EQ(run.steps.at(7).charge.failure, (3 + 10 + 2 + 10) * kSecondNs);
}

TEST(Charges, AFailureThatNoStepFollowedIsUnrecovered) {
  LogBuilder log;
  Start(log).Steps(1, 8).Dies(3);
  const Attribution run = MustAttribute(Start(log).Dies(2).Build());
  EXPECT_EQ(run.uncharged.unrecovered, (3 + 10 + 2) * kSecondNs);
  EXPECT_EQ(run.uncharged.start_up, 10 * kSecondNs);
}

TEST(Charges, GoingBackWithinAnAttemptIsReworkWithoutAFailure) {
  LogBuilder log;
  const Attribution run = MustAttribute(log.BeginAttempt().Steps(1, 8).Steps(6, 9).Ends(0).Build());
  EXPECT_EQ(run.steps.at(5).charge.rework, 10 * kSecondNs);
  EXPECT_EQ(run.steps.at(5).charge.failure, 0);
}

TEST(Charges, ASkippedStepIsChargedAndMakesNoGoodput) {
  LogBuilder log;
  const RunReport report =
      MustReport(log.BeginAttempt().Steps(1, 3).SkippedStep(3).Steps(4, 5).Ends(0).Build());
  const AttributedStep& skipped = report.attribution.steps.at(2);
  EXPECT_EQ(skipped.charge.execution, 10 * kSecondNs);
  EXPECT_FALSE(StepGoodput(skipped).has_value());
  EXPECT_DOUBLE_EQ(*report.steps.mean, 0.75);
  EXPECT_TRUE(report.errors.empty());
}

TEST(Charges, AmortisedStartUpIsDividedAmongTheKeptSteps) {
  LogBuilder builder(3);
  Start(builder).Steps(1, 8).Dies(3);
  const RunLog log = Start(builder).Steps(5, 8).Ends(0).Build();
  const RunReport apart = MustReport(log), amortised = MustReport(log, {.amortise_start_up = true});
  EXPECT_EQ(apart.attribution.uncharged.start_up, 30 * kSecondNs);
  EXPECT_EQ(amortised.attribution.uncharged.start_up, 0);
  EXPECT_EQ(amortised.steps.charged, amortised.attribution.allocated);
  DeviceNs sum = 0;
  for (const AttributedStep& step : amortised.attribution.steps) {
    sum += step.charge.start_up;
    EXPECT_LE(step.charge.start_up - 30 * kSecondNs / 7, step.step == 1 ? 6 : 0);
  }
  EXPECT_EQ(sum, 30 * kSecondNs);
  EXPECT_NEAR(*amortised.steps.mean, *amortised.goodput, 1e-15);
}

TEST(Charges, AmortisingWithoutAKeptStepLeavesTheLine) {
  LogBuilder log;
  const RunReport report = MustReport(Start(log).Dies(0).Build(), {.amortise_start_up = true});
  EXPECT_EQ(report.attribution.uncharged.start_up, 10 * kSecondNs);
}

TEST(Charges, AnAccountThatDoesNotSumIsABug) {
  Attribution run = MustAttribute(LogOf('B'));
  run.steps[40].charge.failure += 1;
  EXPECT_EQ(CheckConserved(run).code(), absl::StatusCode::kInternal);
  run = MustAttribute(LogOf('B'));
  run.total.At(State::kEval) += 1;
  EXPECT_EQ(CheckConserved(run).code(), absl::StatusCode::kInternal);
}

TEST(StepGoodput, AboveOneIsAnErrorThatNamesTheStep) {
  RunLog log = LogOf('A', 2);
  log.attempts[0].ranks[1].steps[41].model_flops *= 1.5;
  const RunReport report = MustReport(log);
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_NE(report.errors[0].find("step 41 of attempt 0 has a goodput of 1.25"), std::string::npos)
      << report.errors[0];
}

TEST(StepGoodput, AboveAMeasuredPeakIsNotedAndNotCutOff) {
  RunLog log = LogOf('A', 2);
  for (RankLog& rank : log.attempts[0].ranks) {
    rank.peak_label = "peak=measured fp32, 1 thread";
    rank.steps[41].model_flops *= 1.25;
  }
  const RunReport report = MustReport(log);
  EXPECT_TRUE(report.errors.empty());
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("step 41"), std::string::npos) << report.notes[0];
  EXPECT_DOUBLE_EQ(*StepGoodput(report.attribution.steps[41]), 1.25);
}

TEST(StepGoodput, AKeptStepWithoutFlopsIsAnError) {
  RunLog log = LogOf('A');
  log.attempts[0].ranks[0].steps[3].model_flops = 0;
  const RunReport report = MustReport(log);
  ASSERT_EQ(report.errors.size(), 1u);
  EXPECT_NE(report.errors[0].find("step 3 "), std::string::npos) << report.errors[0];
}

TEST(StepGoodput, TakesThePeakOfTheDevicesThatRanTheStep) {
  LogBuilder builder(2);
  builder.BeginAttempt().Steps(1, 5).Dies(0);
  RunLog log = builder.BeginAttempt().Steps(5, 9).Ends(0).Build();
  for (RankLog& rank : log.attempts[1].ranks) {  // twice as fast
    rank.peak_flops *= 2;
    for (StepExecution& step : rank.steps) step.model_flops *= 2;
  }
  const RunReport report = MustReport(log);
  for (const AttributedStep& step : report.attribution.steps) {
    EXPECT_DOUBLE_EQ(*StepGoodput(step), 1) << step.step;
  }
  EXPECT_TRUE(report.errors.empty());
  EXPECT_DOUBLE_EQ(*report.steps.mean, 1);
  EXPECT_DOUBLE_EQ(*report.steps.mfu, 1);
}

TEST(StepGoodput, IsUnknownWithoutAPeak) {
  RunLog log = LogOf('A', 2);
  log.attempts[0].ranks[1].peak_flops = 0;
  const RunReport report = MustReport(log);
  EXPECT_FALSE(StepGoodput(report.attribution.steps[0]).has_value());
  EXPECT_FALSE(report.steps.mean.has_value());
}

// Rank 0 saved the state after `step`, in the attempt that it says.
void Commit(AttemptLog* attempt, int64_t step, int64_t snapshot_ns, int64_t commit_ns) {
  std::vector<CheckpointMark>& marks = attempt->ranks[0].checkpoints;
  const CheckpointId id{step, attempt->attempt};
  marks.push_back({snapshot_ns, {CheckpointAct::kSnapshot, id, {}, 0}});
  if (commit_ns > 0) marks.push_back({commit_ns, {CheckpointAct::kCommit, id, {}, 0}});
}

std::vector<int64_t> AtRisk(const RunLog& log) {
  std::vector<int64_t> steps;
  for (const AttributedStep& step : MustAttribute(log).steps) {
    if (step.at_risk) steps.push_back(step.step);
  }
  return steps;
}

TEST(AtRisk, AreStepsBehindTheNewestCommitOfAnOpenRun) {
  LogBuilder builder(2);
  RunLog log = builder.BeginAttempt().Steps(1, 9).DiesUnwatched().Build();
  AttemptLog& attempt = log.attempts[0];
  const int64_t begin = *attempt.begin_ns;
  EXPECT_EQ(AtRisk(log).size(), 8u);  // nothing is committed
  Commit(&attempt, 4, begin + 40 * kSecondNs, begin + 43 * kSecondNs);
  Commit(&attempt, 6, begin + 60 * kSecondNs, 0);  // in flight
  EXPECT_EQ(AtRisk(log), (std::vector<int64_t>{5, 6, 7, 8}));
}

TEST(AtRisk, IsNothingOfARunThatIsDone) {
  EXPECT_TRUE(AtRisk(LogOf('A')).empty());
  EXPECT_TRUE(AtRisk(LogOf('H')).empty());
}

TEST(AtRisk, WhatALaterAttemptBuiltUponIsCovered) {
  LogBuilder log;
  log.BeginAttempt().Steps(1, 9).Dies(3);
  log.BeginAttempt().Steps(5, 7).DiesUnwatched();
  EXPECT_EQ(AtRisk(log.Build()), (std::vector<int64_t>{5, 6}));
}

TEST(AtRisk, ACheckpointOfStepsThatWereRunAgainCoversThemNot) {
  LogBuilder builder;
  RunLog log = builder.BeginAttempt().Steps(1, 9).Steps(4, 7).DiesUnwatched().Build();
  AttemptLog& attempt = log.attempts[0];
  Commit(&attempt, 8, *attempt.begin_ns + 80 * kSecondNs, *attempt.begin_ns + 81 * kSecondNs);
  EXPECT_EQ(AtRisk(log), (std::vector<int64_t>{4, 5, 6}));
}

TEST(Charges, JsonSumsToWhatWasAllocatedAsIntegers) {
  for (const bool amortised : {false, true}) {
    RunLog log = LogOf('E', 3);
    log.attempts[0].ranks[0].process_start_ns -= 123'456'789;  // no round numbers
    log.attempts[0].begin_ns.reset();
    const std::string text = RenderJson(MustReport(log, {.amortise_start_up = amortised}));
    const auto json = nlohmann::json::parse(text);
    const auto& charges = json["charges"];
    EXPECT_EQ(charges["start_up_amortised"], amortised);
    int64_t sum = 0;
    for (const auto& step : json["steps"]) {
      sum += step["charge_device_ns"].get<int64_t>();
      EXPECT_TRUE(step["goodput"].is_number());
      EXPECT_EQ(step["at_risk"], false);
    }
    EXPECT_EQ(sum, charges["charged_device_ns"].get<int64_t>());
    for (const auto& [name, ns] : charges["uncharged_device_ns"].items()) sum += ns.get<int64_t>();
    EXPECT_EQ(sum, json["allocated_device_ns"].get<int64_t>());
    EXPECT_TRUE(json["errors"].empty());
  }
}

TEST(Charges, TextTellsWhatIsChargedAndWhatIsAtRisk) {
  const std::string text = RenderText(MustReport(LogOf('F', 2)));
  EXPECT_NE(text.find("A step's goodput 1.0000"), std::string::npos) << text;
  EXPECT_NE(text.find("At risk: 60 kept steps, 1,200.000 device-seconds"), std::string::npos)
      << text;
}

}  // namespace
}  // namespace muster::runtime
