// Devices that wait with no rank on them: queued, allocated before the job starts, spare, draining.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/report.h"
#include "tests/support/runtime/ledger_bytes.h"
#include "tests/support/runtime/log_builder.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

constexpr int64_t kWallOffsetNs = 1'700'000'000 * kSecondNs;  // monotonic second 0 is this one
constexpr int64_t kWallSeconds = 1'700'000'000;

// A run directory of two ranks on one host, told in seconds of its clock.
class Waits : public testing::Test {
 protected:
  // A rank's attempt: steps from `start` on, of 10 s each; it ends with the last.
  void Ranks(int attempt, int64_t start, int64_t first_step, int64_t end_step, int exit_code,
             const SchedulerJob& scheduler = {}) {
    const std::string directory = AttemptDirectory(scratch_.path(), attempt);
    std::filesystem::create_directories(directory);
    for (int rank = 0; rank < 2; ++rank) {
      AttemptBegin begin;
      begin.attempt = attempt;
      begin.rank = rank;
      begin.world_size = 2;
      begin.peak_flops = 1e12;
      begin.host = "node1";
      begin.process_start_monotonic_ns = start * kSecondNs;
      LedgerBytes file(begin, start * kSecondNs, kWallOffsetNs);
      if (rank == 0 && !scheduler.id.empty()) file.Scheduler(start * kSecondNs, scheduler);
      for (int64_t step = first_step; step < end_step; ++step, start += 10) {
        file.StepBegin(start * kSecondNs, step);
        StepEnd end;
        end.step = step;
        end.model_flops = 1e13;
        end.time_ns[parallel::kCompute] = 10 * kSecondNs;
        file.StepEnded((start + 10) * kSecondNs, end);
      }
      file.End(start * kSecondNs, exit_code);
      start -= 10 * (end_step - first_step);
      WriteWhole(directory + "/" + LedgerFileName(rank), file.bytes());
    }
  }
  SupervisorBytes Supervisor(int64_t at, const SchedulerJob& scheduler) {
    return SupervisorBytes("node1", at * kSecondNs, kWallOffsetNs, 0, scheduler);
  }
  void Put(int number, const SupervisorBytes& supervisor) {
    std::filesystem::create_directories(scratch_.path() + "/ledger");
    WriteWhole(scratch_.path() + "/ledger/" + SupervisorFileName(number), supervisor.bytes());
  }
  RunReport Report() {
    absl::StatusOr<RunReport> report = ReportOf(scratch_.path());
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *std::move(report) : RunReport{};
  }
  ScratchDirectory scratch_;
};

TEST_F(Waits, FromTheSchedulersStartToTheFirstAttemptDevicesAreAllocatedAndIdle) {
  const SchedulerJob job{"4711", 0, kWallSeconds + 400, kWallSeconds + 990};
  Ranks(0, 1000, 1, 11, 0);
  SupervisorBytes supervisor = Supervisor(998, job);
  supervisor.AttemptBegin(1000 * kSecondNs, 0, 2);
  supervisor.AttemptEnd(1100 * kSecondNs, 0);
  Put(0, supervisor);
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.total.At(State::kAllocWait), 2 * 10 * kSecondNs);
  EXPECT_EQ(report.attribution.allocated, 2 * 110 * kSecondNs);
  EXPECT_EQ(report.queue, 2 * 590 * kSecondNs);
  EXPECT_DOUBLE_EQ(report.ettr, 100. / (110 + 590));
  EXPECT_DOUBLE_EQ(*report.goodput, 100. / 110);
  const std::string text = RenderText(report);
  EXPECT_NE(text.find("Slurm job 4711, queued for 9 min 50 s, started 10.0 s before the attempt"),
            std::string::npos)
      << text;
  const auto scheduler = nlohmann::json::parse(RenderJson(report))["attempts"][0]["scheduler"];
  EXPECT_EQ(scheduler["job"], "4711");
  EXPECT_EQ(scheduler["restarts"], 0);
  EXPECT_EQ(scheduler["queued_seconds"], 590);
  EXPECT_EQ(scheduler["alloc_wait_seconds"], 10);
}

TEST_F(Waits, ARequeueIsWaitedForInTheGap) {
  Ranks(0, 1000, 1, 6, 75);
  Ranks(1, 1500, 6, 11, 0);
  SupervisorBytes first = Supervisor(1000, {"4711", 0, 0, kWallSeconds + 1000});
  first.AttemptBegin(1000 * kSecondNs, 0, 2);
  first.AttemptEnd(1050 * kSecondNs, 0);
  Put(0, first);
  SupervisorBytes second = Supervisor(1500, {"4711", 1, 0, kWallSeconds + 1480});
  second.AttemptBegin(1500 * kSecondNs, 1, 2);
  second.AttemptEnd(1550 * kSecondNs, 1);
  Put(1, second);
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.attempts[1].gap_before_ns, 430 * kSecondNs);
  EXPECT_EQ(report.attribution.attempts[1].alloc_wait_ns, 20 * kSecondNs);
  EXPECT_EQ(report.queue, 2 * 430 * kSecondNs);
  EXPECT_EQ(report.attribution.total.At(State::kAllocWait), 2 * 20 * kSecondNs);
  EXPECT_NE(RenderText(report).find("Slurm job 4711, requeued once"), std::string::npos);
}

TEST_F(Waits, AnotherLaunchInOneAllocationIsNoNewStart) {
  const SchedulerJob job{"4711", 0, 0, kWallSeconds + 1000};
  Ranks(0, 1000, 1, 6, 1);
  Ranks(1, 1100, 1, 11, 0);
  for (const int k : {0, 1}) {
    SupervisorBytes supervisor = Supervisor(1000 + 100 * k, job);
    supervisor.AttemptBegin((1000 + 100 * k) * kSecondNs, k, 2);
    supervisor.AttemptEnd((k == 0 ? 1050 : 1200) * kSecondNs, k);
    Put(k, supervisor);
  }
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.total.At(State::kAllocWait), 0);
  EXPECT_EQ(report.queue, 2 * 50 * kSecondNs);
}

TEST_F(Waits, WithoutASupervisorRank0Tells) {
  Ranks(0, 1000, 1, 11, 0, {"4711", 0, kWallSeconds + 900, kWallSeconds + 960});
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.total.At(State::kAllocWait), 2 * 40 * kSecondNs);
  EXPECT_EQ(report.queue, 2 * 60 * kSecondNs);
}

TEST_F(Waits, WhatTheSchedulerDoesNotTellIsNotInvented) {
  Ranks(0, 1000, 1, 11, 0, {"4711", 0, kWallSeconds + 900, 0});
  const RunReport report = Report();
  EXPECT_EQ(report.queue, 0);
  EXPECT_EQ(report.attribution.total.At(State::kAllocWait), 0);
  EXPECT_NE(RenderText(report).find("4711, which does not say when it started"), std::string::npos);
}

TEST_F(Waits, SparesAreAllocatedAndIdle) {
  Ranks(0, 1000, 1, 6, 1);
  Ranks(1, 1060, 4, 11, 0);
  SupervisorBytes supervisor = Supervisor(980, {"4711", 0, 0, kWallSeconds + 980});
  supervisor.AttemptBegin(1000 * kSecondNs, 0, 2);
  supervisor.Host(1000 * kSecondNs, 0, {"node1", 2, 2});
  supervisor.Host(1000 * kSecondNs, 0, {"node2", 4, 0});
  supervisor.Host(1000 * kSecondNs, 0, {"node3", 4, 0});
  supervisor.AttemptEnd(1055 * kSecondNs, 0);
  supervisor.AttemptBegin(1060 * kSecondNs, 1, 2);
  supervisor.Host(1060 * kSecondNs, 1, {"node2", 4, 2});  // in; half of its slots are free
  supervisor.Host(1060 * kSecondNs, 1, {"node3", 4, 0});
  supervisor.AttemptEnd(1130 * kSecondNs, 1);
  Put(0, supervisor);
  const RunReport report = Report();
  const Attribution& run = report.attribution;
  EXPECT_EQ(run.total.At(State::kSpareIdle), (8 * 55 + 4 * 70) * kSecondNs);
  EXPECT_EQ(run.total.At(State::kAllocWait), 10 * 20 * kSecondNs);
  EXPECT_EQ(run.allocated, (10 * (20 + 55) + 6 * 70) * kSecondNs);
  EXPECT_EQ(run.uncharged.spare_idle, run.total.At(State::kSpareIdle));
  EXPECT_EQ(report.queue, 6 * 5 * kSecondNs);  // between the attempts
  EXPECT_NE(RenderText(report).find("2 devices and 8 spare"), std::string::npos);
  EXPECT_NE(RenderText(report).find("spare idle"), std::string::npos);
  const auto attempts = nlohmann::json::parse(RenderJson(report))["attempts"];
  EXPECT_EQ(attempts[0]["spare_devices"], 8);
  EXPECT_EQ(attempts[1]["hosts"][0]["host"], "node2");
  EXPECT_EQ(attempts[1]["hosts"][0]["ranks"], 2);
}

TEST_F(Waits, WhoWasAskedToStopDrainsUntilAllAreGone) {
  Ranks(0, 1000, 1, 6, 75);
  SupervisorBytes supervisor = Supervisor(1000, {});
  supervisor.AttemptBegin(1000 * kSecondNs, 0, 2);
  supervisor.AttemptEnd(1057 * kSecondNs, 0);
  Put(0, supervisor);
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.total.At(State::kDrain), 2 * 7 * kSecondNs);
  EXPECT_EQ(report.attribution.total.At(State::kTeardown), 0);
  EXPECT_EQ(report.failures, 0);
}

// Asked to stop, they did not, and were killed: no failure was to be detected.
TEST(Drain, EndsWhatWasKilledAfterARequestToStop) {
  LogBuilder builder(2);
  RunLog log = builder.BeginAttempt().Steps(1, 6).Dies(12).Build();
  AttemptLog& attempt = log.attempts[0];
  attempt.failure.emplace();
  attempt.failure->kind = FailureKind::kPreempted;
  attempt.kill_ns = attempt.ranks[0].end_ns + 4 * kSecondNs;
  const auto run = Attribute(log);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->total.At(State::kDrain), 2 * 12 * kSecondNs);
  EXPECT_EQ(run->total.At(State::kDetect), 0);
}

}  // namespace
}  // namespace muster::runtime
