#include "runtime/goodput/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/goodput/attempt_end.h"
#include "tests/support/runtime/log_builder.h"

namespace muster::runtime {
namespace {

using nlohmann::json;

RunReport MustReport(RunLog log) {
  absl::StatusOr<RunReport> report = MakeReport("runs/example", {std::move(log), {}});
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *std::move(report) : RunReport{};
}

DeviceNs Sum(const std::vector<NamedDeviceNs>& named) {
  DeviceNs sum = 0;
  for (const auto& [name, ns] : named) sum += ns;
  return sum;
}

// The text behind "key": as it stands, so that no double rounds it.
std::string RawValue(const std::string& text, const std::string& key) {
  const size_t at = text.find("\"" + key + "\": ");
  EXPECT_NE(at, std::string::npos) << key;
  const size_t begin = at + key.size() + 4;
  return text.substr(begin, text.find_first_of(",\n}", begin) - begin);
}

TEST(Report, TheEightLogsHaveTheirGoodput) {
  // MFU of these logs' compute is 1, so goodput is the share of productive compute.
  const std::pair<char, double> cases[] = {{'A', 1},      {'B', 0.625},   {'C', 2. / 3},
                                           {'D', 5. / 6}, {'E', 2. / 3},  {'F', 600. / 604},
                                           {'G', 1. / 2}, {'H', 10. / 17}};
  for (const auto& [name, goodput] : cases) {
    EXPECT_DOUBLE_EQ(*MustReport(LogOf(name, 2)).goodput, goodput) << name;
  }
}

TEST(Report, FactorsMultiplyToGoodput) {
  for (const char name : {'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'}) {
    const RunReport report = MustReport(LogOf(name, 3));
    const double product = report.availability * report.non_stall * report.non_rework * *report.mfu;
    EXPECT_NEAR(product, *report.goodput, 1e-15) << name;
  }
}

TEST(Report, FactorsTellWhatWentWrong) {
  const RunReport stalled = MustReport(LogOf('D'));
  EXPECT_EQ(stalled.availability, 1);
  EXPECT_DOUBLE_EQ(stalled.non_stall, 5. / 6);
  EXPECT_EQ(stalled.non_rework, 1);
  EXPECT_EQ(*stalled.mfu, 1);
  const RunReport reworked = MustReport(LogOf('G'));
  EXPECT_DOUBLE_EQ(reworked.availability, 0.75);  // 500 of 2,000 s down
  EXPECT_EQ(reworked.non_stall, 1);
  EXPECT_DOUBLE_EQ(reworked.non_rework, 2. / 3);
  const RunReport saving = MustReport(LogOf('E'));
  EXPECT_DOUBLE_EQ(saving.availability, 1160. / 1500);
  EXPECT_DOUBLE_EQ(saving.non_stall, 1100. / 1160);
  EXPECT_DOUBLE_EQ(saving.non_rework, 1000. / 1100);
}

TEST(Report, CategoriesAndCausesSumExactly) {
  for (const char name : {'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'}) {
    const RunReport report = MustReport(LogOf(name, 3));
    const Attribution& run = report.attribution;
    EXPECT_EQ(Sum(report.by_category), run.allocated);
    EXPECT_EQ(Sum(report.lost_by_cause) +
                  run.total.step[static_cast<int>(StepFate::kProductive)][parallel::kCompute],
              run.allocated);
  }
}

TEST(Report, RatesAndFailureTimes) {
  const RunReport report = MustReport(LogOf('H', 2));
  EXPECT_EQ(report.failures, 2);
  EXPECT_DOUBLE_EQ(*report.mean_time_to_failure_seconds, 1700. / 2);
  EXPECT_DOUBLE_EQ(*report.mean_time_to_detect_seconds, 100);
  EXPECT_DOUBLE_EQ(*report.mean_time_to_restart_seconds, 100);
  EXPECT_DOUBLE_EQ(report.tokens_per_second, 100'000 / 1700.);
  EXPECT_DOUBLE_EQ(report.tokens_per_device_hour, 100'000 / (2 * 1700. / 3600));
  EXPECT_DOUBLE_EQ(report.ettr, 10. / 17);
  EXPECT_FALSE(MustReport(LogOf('A')).mean_time_to_failure_seconds.has_value());
}

// Log B with snapshots after every 20th step, durable 2 s later: kept 1,000 of 1,600 s.
RunLog SavesOfLogB() {
  RunLog log = LogOf('B', 2);
  for (AttemptLog& attempt : log.attempts) {
    for (RankLog& rank : attempt.ranks) {
      for (const int64_t step : {20, 40, 60, 80}) {
        const CheckpointId id{step, attempt.attempt};
        rank.checkpoints.push_back({step * kSecondNs, {CheckpointAct::kSnapshot, id, {}, 0}});
        rank.checkpoints.push_back({(step + 2) * kSecondNs, {CheckpointAct::kCommit, id, {}, 0}});
      }
    }
  }
  return log;
}

TEST(Report, AProjectionOfTheRunItselfTakesItsOwnTimes) {
  EXPECT_FALSE(ProjectionOfRun(MustReport(LogOf('B'))).ok()) << "without checkpoints";
  const RunReport report = MustReport(SavesOfLogB());
  EXPECT_EQ(report.steps_between_checkpoints, 20);
  const auto own = ProjectionOfRun(report);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_DOUBLE_EQ(own->model.mttf_seconds, 1600);
  EXPECT_DOUBLE_EQ(own->model.commit_seconds, 2);
  EXPECT_DOUBLE_EQ(own->interval_seconds, 200);
  EXPECT_DOUBLE_EQ(own->kept, 0.625);
  EXPECT_DOUBLE_EQ(own->projected, ProjectedGoodput(own->model, 200));
  EXPECT_EQ(json::parse(RenderJson(report))["projection"]["kept"], 0.625);
}

TEST(Report, ProjectionsAreInTheJsonThatIsAskedForThem) {
  RunReport report = MustReport(SavesOfLogB());
  EXPECT_FALSE(json::parse(RenderJson(report)).contains("projections"));
  report.options.project = true;
  const json rows = json::parse(RenderJson(report))["projections"];
  const std::vector<ProjectionRow> wanted = Projections(*FailureModelOf(report));
  ASSERT_EQ(rows.size(), wanted.size());
  EXPECT_EQ(rows[0]["gpus"], 1024);
  EXPECT_EQ(rows[0]["cluster"], "RSC-1");
  EXPECT_DOUBLE_EQ(rows[0]["kept"].get<double>(), wanted[0].best.goodput);
  RunReport unsaved = MustReport(LogOf('B'));
  unsaved.options.project = true;
  EXPECT_TRUE(json::parse(RenderJson(unsaved))["projections"].is_null());
}

// No clock runs that coarsely, but a ledger may say so.
TEST(Report, KeptStepsThatTookNoTimeAreNothingToProjectFrom) {
  RunLog log = SavesOfLogB();
  for (AttemptLog& attempt : log.attempts) {
    for (RankLog& rank : attempt.ranks) {
      for (Phase& phase : rank.phases) phase.begin_ns = rank.end_ns;
      for (StepExecution& step : rank.steps) step.time_ns = {};
    }
  }
  const RunReport report = MustReport(std::move(log));
  EXPECT_GT(report.attribution.productive_steps, 0);
  EXPECT_FALSE(ProjectionOfRun(report).ok());
  EXPECT_TRUE(json::parse(RenderJson(report))["projection"].is_null());
}

TEST(Report, TextTellsHowLongCheckpointsTake) {
  const std::string text = RenderText(MustReport(SavesOfLogB()));
  EXPECT_NE(text.find("Checkpoints 8   mean time to commit 2.00 s, stall of a device 0.00 s\n"),
            std::string::npos)
      << text;
  EXPECT_EQ(RenderText(MustReport(LogOf('B'))).find("Checkpoints"), std::string::npos);
}

TEST(Report, WhyAStepWasSkippedIsInTheJson) {
  LogBuilder builder;
  RunLog log = builder.BeginAttempt().Steps(0, 3).SkippedStep(3).Ends(0).Build();
  log.attempts[0].ranks[0].skips = {{0, 3, "the loss spikes"}};
  const json steps = json::parse(RenderJson(MustReport(std::move(log))))["steps"];
  EXPECT_TRUE(steps[2]["skip_reason"].is_null());
  EXPECT_EQ(steps[3]["skip_reason"], "the loss spikes");
}

// Two commits on 6 devices with stalls of 5 s each, then one on 2 devices with 2 s.
TEST(Report, TheStallOfACheckpointIsADevicesWhateverTheWorldsWere) {
  LogBuilder builder(6);
  builder.BeginAttempt();
  for (const int64_t step : {1, 2}) {
    builder.Steps(step, step + 1).In(State::kCheckpointStall, 5);
  }
  builder.Dies(0).OnDevices(2).BeginAttempt().Steps(3, 4).In(State::kCheckpointStall, 2);
  RunLog log = builder.Steps(4, 5).Ends(0).Build();
  for (AttemptLog& attempt : log.attempts) {
    for (int64_t step = 1; step <= 3; ++step) {
      if ((step < 3) != (attempt.attempt == 0)) continue;
      const CheckpointId id{step, attempt.attempt};
      std::vector<CheckpointMark>& marks = attempt.ranks[0].checkpoints;
      marks.push_back({step * kSecondNs, {CheckpointAct::kSnapshot, id, {}, 0}});
      marks.push_back({step * kSecondNs, {CheckpointAct::kCommit, id, {}, 0}});
    }
  }
  const RunReport report = MustReport(std::move(log));
  EXPECT_EQ(report.commits, 3);
  EXPECT_DOUBLE_EQ(*report.mean_stall_seconds_of_checkpoint, 12. / 3);
}

// Writers before this one told of a snapshot only after the commit that training had waited for.
TEST(Report, ACommitWithoutASnapshotBeforeItCountsButIsNotTimed) {
  RunLog log = LogOf('A');
  const CheckpointId id{20, 0};
  log.attempts[0].ranks[0].checkpoints = {{200, {CheckpointAct::kCommit, id, {}, 0}},
                                          {300, {CheckpointAct::kSnapshot, id, {}, 0}}};
  const RunReport report = MustReport(log);
  EXPECT_EQ(report.commits, 1);
  EXPECT_FALSE(report.mean_seconds_to_commit);
  const absl::Status status = FailureModelOf(report).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message().find("committed none"), absl::string_view::npos) << status;
}

TEST(Report, ARunThatIsUnderWayHasNotFailed) {
  RunLog log = LogOf('F', 2);
  EXPECT_EQ(HowItEnded(MustReport(log).attribution.attempts[0]), "under way, or was killed");
  log.attempts[0].supervisor = 0;
  const RunReport report = MustReport(log);
  EXPECT_EQ(report.failures, 0);
  EXPECT_TRUE(report.lost_by_failure.empty());
  EXPECT_EQ(report.attribution.uncharged.unrecovered, 0);
  EXPECT_EQ(report.steps_at_risk, 60);
  const json attempt = json::parse(RenderJson(report))["attempts"][0];
  EXPECT_EQ(attempt["open"], true);
  EXPECT_EQ(attempt["failed"], false);
  EXPECT_EQ(attempt["ended"], "under way, or supervisor died");
  EXPECT_EQ(RenderText(report).find("Failures"), std::string::npos) << RenderText(report);
}

TEST(Report, AnAttemptWithoutAnEndHasFailedOnceAnotherFollows) {
  LogBuilder builder;
  builder.BeginAttempt().Steps(0, 3).DiesUnwatched();
  const RunLog log = builder.BeginAttempt().Steps(2, 4).DiesUnwatched().Build();
  const RunReport report = MustReport(log);
  EXPECT_EQ(report.failures, 1);
  EXPECT_DOUBLE_EQ(*report.mean_time_to_failure_seconds, 50);
  EXPECT_EQ(HowItEnded(report.attribution.attempts[0]), "rank 0 left no end record");
  EXPECT_TRUE(report.attribution.attempts[1].open);
}

// Attempt 1 goes on at once behind attempt 0, and the failure that ends it undoes steps of both.
RunLog UndoneLater(int first_exit_code) {
  LogBuilder builder(2);
  builder.BeginAttempt().Steps(1, 61).Ends(first_exit_code);
  builder.BeginAttempt().In(State::kInitModel, 6).Steps(61, 64).Dies(4);
  builder.BeginAttempt().In(State::kInitModel, 7);
  RunLog log = builder.Steps(21, 70).Ends(0).Build();
  log.attempts[1].failure = Failure{.kind = FailureKind::kHostLost};
  return log;
}

TEST(Report, StepsOfAnyAttemptAreLostToTheFailureThatUndidThem) {
  const DeviceNs by_host = 2 * (43 * 10 + 4 + 7) * kSecondNs;
  EXPECT_EQ(
      MustReport(UndoneLater(1)).lost_by_failure,
      (std::vector<NamedDeviceNs>{{"host_lost", by_host}, {"unsupervised", 2 * 6 * kSecondNs}}));
  EXPECT_EQ(MustReport(UndoneLater(75)).lost_by_failure,
            (std::vector<NamedDeviceNs>{{"host_lost", by_host}}));
}

// An attempt that never executes a step cannot have undone any.
TEST(Report, AFailedStartIsNotToBlameForStepsUndoneBefore) {
  LogBuilder builder;
  builder.BeginAttempt().Steps(1, 9).Dies(3);
  builder.BeginAttempt().In(State::kInitModel, 2).Dies(1);
  RunLog log = builder.BeginAttempt().In(State::kInitModel, 4).Steps(5, 9).Ends(0).Build();
  log.attempts[0].failure = Failure{.kind = FailureKind::kCrash};
  log.attempts[1].failure = Failure{.kind = FailureKind::kLaunch};
  EXPECT_EQ(MustReport(log).lost_by_failure,
            (std::vector<NamedDeviceNs>{{"crash", (40 + 3 + 2) * kSecondNs},
                                        {"launch", (1 + 4) * kSecondNs}}));
}

TEST(Report, GapsBetweenAttemptsLowerEttrOnly) {
  RunLog log = LogOf('C');
  log.attempts[1].gap_before_ns = 500 * kSecondNs;
  const RunReport report = MustReport(log);
  EXPECT_DOUBLE_EQ(*report.goodput, 2. / 3);
  EXPECT_DOUBLE_EQ(report.ettr, 0.5);
}

TEST(Report, HardwareFlopsCountWhatIsRecomputed) {
  RunLog log = LogOf('D', 2);
  for (RankLog& rank : log.attempts[0].ranks) {
    for (StepExecution& step : rank.steps) step.hardware_flops = 1.25 * step.model_flops;
  }
  const RunReport report = MustReport(log);
  EXPECT_DOUBLE_EQ(*report.mfu, 1);
  EXPECT_DOUBLE_EQ(*report.hfu, 1.25);
  const json object = json::parse(RenderJson(report));
  EXPECT_DOUBLE_EQ(object["hfu"].get<double>(), 1.25);
  EXPECT_EQ(object["steps"][0]["hardware_flops"], 2 * 1.25e13);
  EXPECT_NE(RenderText(report).find("HFU 1.2500"), std::string::npos);
  log.attempts[0].ranks[1].steps[7].hardware_flops = 0;  // of an older writer
  EXPECT_FALSE(MustReport(log).hfu.has_value());
  EXPECT_TRUE(json::parse(RenderJson(MustReport(log)))["hfu"].is_null());
}

TEST(Report, AnUnknownPeakIsSaidNotGuessed) {
  RunLog log = LogOf('A');
  log.attempts[0].ranks[0].peak_flops = 0;
  const RunReport report = MustReport(log);
  EXPECT_FALSE(report.goodput.has_value());
  EXPECT_TRUE(json::parse(RenderJson(report))["goodput"].is_null());
  EXPECT_NE(RenderText(report).find("Goodput is not known"), std::string::npos);
}

TEST(Report, WithoutAnyRanksLedgerThatIsWhyGoodputIsNotKnown) {
  RunLog log = LogOf('A');
  log.attempts[0].ranks.clear();  // its supervisor tells its length
  const std::string text = RenderText(MustReport(std::move(log)));
  EXPECT_NE(text.find("Goodput is not known: no rank left a ledger\n"), std::string::npos) << text;
}

TEST(Report, AnEmptyAttemptHasNoGoodputButAReport) {
  LogBuilder log;
  const RunReport report = MustReport(log.BeginAttempt().In(State::kInitModel, 5).Ends(1).Build());
  EXPECT_EQ(*report.goodput, 0);
  EXPECT_EQ(report.availability, 0);
  EXPECT_EQ(HowItEnded(report.attribution.attempts[0]), "exit code 1");
  EXPECT_TRUE(json::accept(RenderJson(report)));
}

TEST(Report, SecondsAreExactDecimals) {
  EXPECT_EQ(DecimalSeconds(0), "0.0");
  EXPECT_EQ(DecimalSeconds(1), "0.000000001");
  EXPECT_EQ(DecimalSeconds(1'500'000'000), "1.5");
  EXPECT_EQ(DecimalSeconds(-20'000'000'000), "-20.0");
  EXPECT_EQ(DecimalSeconds(DeviceNs{INT64_MAX} * 1000 + 7), "9223372036854.775807007");
}

TEST(Report, JsonKeepsTheContract) {
  RunLog log = LogOf('B', 2);
  log.attempts[0].ranks[0].process_start_ns -= 123'456'789;  // no round numbers
  log.attempts[0].begin_ns.reset();
  const RunReport report = MustReport(log);
  const std::string text = RenderJson(report);
  const json object = json::parse(text);
  EXPECT_EQ(object["goodput"], *report.goodput);
  for (const char* factor : {"availability", "non_stall", "non_rework", "mfu"}) {
    EXPECT_TRUE(object["factors"][factor].is_number()) << factor;
  }
  EXPECT_EQ(object["attempts"].size(), 2u);
  EXPECT_EQ(object["attempts"][0]["ended"], "no rank left an end record");
  EXPECT_EQ(object["attempts"][1]["first_step"], 40);
  EXPECT_EQ(object["attempts"][1]["exit_code"], 0);
  EXPECT_TRUE(object["attempts"][0]["exit_code"].is_null());
  EXPECT_EQ(object["steps"].size(), 100u);
  EXPECT_TRUE(object["lost_by_cause"].contains("rework"));
  int64_t sum = 0;
  for (const auto& [name, ns] : object["device_ns"].items()) sum += ns.get<int64_t>();
  EXPECT_EQ(sum, object["allocated_device_ns"].get<int64_t>());
  EXPECT_EQ(object["device_ns"].size(), object["device_seconds"].size());
  for (const auto& [name, ns] : object["device_ns"].items()) {
    EXPECT_DOUBLE_EQ(object["device_seconds"][name].get<double>(), ns.get<double>() / 1e9);
  }
  EXPECT_EQ(RawValue(text, "allocated_device_seconds"),
            DecimalSeconds(report.attribution.allocated));
  EXPECT_EQ(RawValue(text, "allocated_device_seconds"), "3200.246913578");
}

TEST(Report, JsonStaysExactBeyond64Bits) {
  RunLog log = LogOf('A');
  log.attempts[0].world_size = 2'000'000'000;  // device-ns pass 2^63; most ranks left no ledger
  const RunReport report = MustReport(log);
  EXPECT_EQ(RawValue(RenderJson(report), "allocated_device_ns"), "2000000000000000000000");
  EXPECT_EQ(RawValue(RenderJson(report), "allocated_device_seconds"), "2000000000000.0");
}

TEST(Report, NamesFromOutsideCannotForgeNumbers) {
  RunReport report = MustReport(LogOf('A'));
  report.run = std::string("\x01") + "7";
  report.notes = {std::string("\x01") + "8, \"goodput\": 1", "\xff\xfe"};
  const json object = json::parse(RenderJson(report));
  EXPECT_EQ(object["run"], "?7");
  EXPECT_EQ(object["notes"][0], "?8, \"goodput\": 1");
}

TEST(Report, TextFits100ColumnsAndNamesWhatMatters) {
  for (const char name : {'A', 'B', 'D', 'E', 'F', 'H'}) {
    const RunReport report = MustReport(LogOf(name, 4));
    const std::string text = RenderText(report);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
    for (const char* word : {"Goodput", "availability", "non-stall", "non-rework", "MFU",
                             "Where the time went", "allocated", "Lost by cause", "how it ended"}) {
      EXPECT_NE(text.find(word), std::string::npos) << word;
    }
  }
  EXPECT_NE(RenderText(MustReport(LogOf('B'))).find("rank 0 left no end record"),
            std::string::npos);
}

}  // namespace
}  // namespace muster::runtime
