// Times of several clocks: how they are put side by side, and that wall clocks may jump.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/goodput/clock.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/report.h"
#include "tests/support/runtime/ledger_bytes.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

constexpr int64_t kMs = 1'000'000;

// Rounds of two clocks, the second `ahead_ns` ahead of the first: nobody leaves before both came.
TEST(ClockOffset, LiesWithinItsUncertaintyWhateverTheDelays) {
  std::mt19937_64 random(7);
  const auto delay = [&](int64_t most) { return static_cast<int64_t>(random() % most); };
  for (const int64_t ahead_ns : {int64_t{0}, int64_t{5'000'000'000}, int64_t{-77'000'000'123}}) {
    for (int run = 0; run < 50; ++run) {
      std::vector<ClockRound> reference, mine;
      int64_t now = 1'000'000'000;
      for (int round = 0; round < 8; ++round) {
        const int64_t first = now + delay(400'000), second = now + delay(400'000);
        const int64_t both = std::max(first, second);
        reference.push_back({first, both + delay(300'000)});
        mine.push_back({second + ahead_ns, both + delay(300'000) + ahead_ns});
        now = both + 300'000;
      }
      const ClockOffset offset = OffsetBetween(mine, reference);
      EXPECT_LE(std::abs(offset.offset_ns + ahead_ns), offset.uncertainty_ns);
      EXPECT_LT(offset.uncertainty_ns, 500'000);
    }
  }
}

TEST(ClockId, IsTheKernelsBootAndWithoutOneTheHosts) {
  EXPECT_EQ((ClockId{"a", 7}), (ClockId{"b", 7}));
  EXPECT_FALSE((ClockId{"a", 7} == ClockId{"a", 8}));
  EXPECT_EQ((ClockId{"a", 0}), (ClockId{"a", 8}));
  EXPECT_FALSE((ClockId{"a", 0} == ClockId{"b", 8}));
  EXPECT_EQ(BootId(), BootId());
}

// A host: its monotonic clock against the true time, and its wall clock.
struct Host {
  std::string name;
  uint64_t boot = 0;
  int64_t clock_ns = 0;  // monotonic less true time
  int64_t wall_ns = 0;   // wall less true time
};

// A rank's part of an attempt by true times: start-up, a step in which the wall clock may jump,
// end.
std::string RankFile(const Host& host, int attempt, int rank, int64_t start, int64_t end,
                     const ClockOffset& clock, int64_t jump_ns = 0) {
  AttemptBegin begin;
  begin.attempt = attempt;
  begin.rank = rank;
  begin.world_size = 2;
  begin.peak_flops = 1e12;
  begin.host = host.name;
  begin.boot = host.boot;
  begin.clock = clock;
  begin.process_start_monotonic_ns = start + host.clock_ns;
  LedgerBytes file(begin, start + host.clock_ns, host.wall_ns - host.clock_ns);
  file.Enter(start + 10 * kMs + host.clock_ns, State::kInitModel);
  file.StepBegin(start + 20 * kMs + host.clock_ns, attempt + 1);
  file.JumpWallClock(jump_ns);
  StepEnd step;
  step.step = attempt + 1;
  step.model_flops = 1;
  step.time_ns[parallel::kCompute] = end - (start + 20 * kMs);
  file.StepEnded(end + host.clock_ns, step);
  file.End(end + host.clock_ns, 0);
  return file.bytes();
}

class Clocks : public testing::Test {
 protected:
  void Put(int attempt, int rank, const std::string& bytes) {
    const std::string directory = AttemptDirectory(scratch_->path(), attempt);
    std::filesystem::create_directories(directory);
    WriteWhole(directory + "/" + LedgerFileName(rank), bytes);
  }
  void PutSupervisor(int number, const std::string& bytes) {
    std::filesystem::create_directories(scratch_->path() + "/ledger");
    WriteWhole(scratch_->path() + "/ledger/" + SupervisorFileName(number), bytes);
  }
  RunReport Report() {
    absl::StatusOr<RunReport> report = ReportOf(scratch_->path());
    EXPECT_TRUE(report.ok()) << report.status();
    scratch_.emplace();
    return report.ok() ? *std::move(report) : RunReport{};
  }
  static void ExpectSameDurations(const RunReport& jumped, const RunReport& calm) {
    EXPECT_EQ(jumped.by_category, calm.by_category);
    EXPECT_EQ(jumped.ettr, calm.ettr);
    ASSERT_EQ(jumped.attribution.attempts.size(), calm.attribution.attempts.size());
    for (size_t a = 0; a < calm.attribution.attempts.size(); ++a) {
      const AttributedAttempt& is = jumped.attribution.attempts[a];
      const AttributedAttempt& was = calm.attribution.attempts[a];
      EXPECT_EQ(is.gap_before_ns, was.gap_before_ns) << a;
      EXPECT_EQ(is.end_ns - is.begin_ns, was.end_ns - was.begin_ns) << a;
    }
  }
  std::optional<ScratchDirectory> scratch_{std::in_place};
  const Host a_{"host-a", 11, 7'000 * kMs, 1'700'000'000'000 * kMs};
  const Host b_{"host-b", 22, -3'000 * kMs, 1'700'000'000'050 * kMs};  // 50 ms fast
};

TEST_F(Clocks, RanksOfSeveralHostsArePlacedByWhatTheyExchanged) {
  const ClockOffset clock{a_.clock_ns - b_.clock_ns - kMs, 2 * kMs};
  Put(0, 0, RankFile(a_, 0, 0, 10'000 * kMs, 20'000 * kMs, {0, 0}));
  Put(0, 1, RankFile(b_, 0, 1, 10'100 * kMs, 20'000 * kMs, clock));
  const RunReport report = Report();
  const DeviceTime& time = report.attribution.total;
  // By the exchange, 1 ms wrong within its 2 ms; not by the wall clocks, which are 50 ms apart.
  EXPECT_EQ(time.At(State::kLaunch), (10 + 100 + 10 - 1) * kMs);
  EXPECT_EQ(report.clock_bound_ns, 2 * kMs);
  EXPECT_NE(RenderText(report).find("to within 2.000 ms"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(RenderJson(report))["clock_bound_seconds"], 0.002);
}

TEST_F(Clocks, OfOneKernelNeedNoExchange) {
  const Host other_name{"container", a_.boot, a_.clock_ns, a_.wall_ns + 999 * kMs};
  Put(0, 0, RankFile(a_, 0, 0, 10'000 * kMs, 20'000 * kMs, {0, -1}));
  Put(0, 1, RankFile(other_name, 0, 1, 10'000 * kMs, 20'000 * kMs, {0, -1}));
  const RunReport report = Report();
  EXPECT_EQ(report.clock_bound_ns, 0);
  EXPECT_EQ(report.attribution.allocated, 2 * 10'000 * kMs);
}

TEST_F(Clocks, ThatNobodyComparedAreOfAnUnknownBound) {
  Put(0, 0, RankFile(a_, 0, 0, 10'000 * kMs, 20'000 * kMs, {0, -1}));
  Put(0, 1, RankFile(b_, 0, 1, 10'000 * kMs, 20'000 * kMs, {0, -1}));
  const RunReport report = Report();
  EXPECT_EQ(report.attribution.allocated, 2 * 10'050 * kMs);
  EXPECT_FALSE(report.clock_bound_ns.has_value());
  EXPECT_NE(RenderText(report).find("how well is not known"), std::string::npos);
  EXPECT_TRUE(nlohmann::json::parse(RenderJson(report))["clock_bound_seconds"].is_null());
}

TEST_F(Clocks, AWallClockThatJumpsOnOneOfTwoHostsChangesNoDuration) {
  const ClockOffset clock{a_.clock_ns - b_.clock_ns, kMs};
  const auto run = [&](int64_t before_ns, int64_t within_ns, int64_t between_ns) {
    Host b = b_;
    b.wall_ns += before_ns;
    Put(0, 0, RankFile(a_, 0, 0, 10'000 * kMs, 20'000 * kMs, {0, 0}));
    Put(0, 1, RankFile(b, 0, 1, 10'100 * kMs, 20'000 * kMs, clock, within_ns));
    b.wall_ns += within_ns + between_ns;
    // Rank 0 is on the host whose clock jumps, now.
    Put(1, 0, RankFile(b, 1, 0, 23'000 * kMs, 30'000 * kMs, {0, 0}));
    Put(1, 1, RankFile(a_, 1, 1, 23'000 * kMs, 30'000 * kMs, {-clock.offset_ns, kMs}));
    SupervisorBytes supervisor(a_.name, 9'000 * kMs + a_.clock_ns, a_.wall_ns - a_.clock_ns,
                               a_.boot);
    supervisor.AttemptBegin(9'900 * kMs + a_.clock_ns, 0, 2);
    supervisor.AttemptEnd(20'500 * kMs + a_.clock_ns, 0);
    supervisor.AttemptBegin(22'700 * kMs + a_.clock_ns, 1, 2);
    supervisor.Exit(30'200 * kMs + a_.clock_ns, 1, 0, 0);
    supervisor.AttemptEnd(30'500 * kMs + a_.clock_ns, 1);
    PutSupervisor(0, supervisor.bytes());
    return Report();
  };
  const RunReport calm = run(0, 0, 0);
  EXPECT_EQ(calm.attribution.attempts[1].gap_before_ns, 2'200 * kMs);
  EXPECT_FALSE(calm.attribution.attempts[1].gap_by_wall_clock);
  for (const int64_t jump : {int64_t{-7'200'000} * kMs, -3 * kMs, int64_t{3'600'000} * kMs}) {
    SCOPED_TRACE(jump);
    for (const RunReport& jumped : {run(0, jump, 0), run(jump, 0, 0), run(0, 0, jump)}) {
      EXPECT_EQ(jumped.attribution.attempts[1].gap_before_ns, 2'200 * kMs);
      const DeviceTime& first = jumped.attribution.attempts[0].time;
      EXPECT_EQ(first.state, calm.attribution.attempts[0].time.state);
      EXPECT_EQ(first.step, calm.attribution.attempts[0].time.step);
      // The supervisor's times of an attempt on another clock lie within the bound.
      ASSERT_TRUE(jumped.clock_bound_ns.has_value());
      EXPECT_LE(*jumped.clock_bound_ns, 600 * kMs);
      for (size_t i = 0; i < calm.by_category.size(); ++i) {
        EXPECT_LE(std::abs(static_cast<double>(jumped.by_category[i].second -
                                               calm.by_category[i].second)),
                  2.0 * static_cast<double>(*jumped.clock_bound_ns))
            << calm.by_category[i].first;
      }
    }
  }
}

TEST_F(Clocks, AWallClockThatJumpsChangesNoGap) {
  const auto run = [&](int64_t within_ns, int64_t between_ns) {
    Host a = a_;
    for (int rank = 0; rank < 2; ++rank) {
      Put(0, rank, RankFile(a, 0, rank, 10'000 * kMs, 20'000 * kMs, {0, 0}, within_ns));
    }
    a.wall_ns += within_ns + between_ns;
    for (int rank = 0; rank < 2; ++rank) {
      Put(1, rank, RankFile(a, 1, rank, 21'500 * kMs, 30'000 * kMs, {0, 0}));
    }
    return Report();
  };
  const RunReport calm = run(0, 0);
  EXPECT_EQ(calm.attribution.attempts[1].gap_before_ns, 1'500 * kMs);
  for (const int64_t jump : {int64_t{-7'200'000} * kMs, int64_t{3'600'000} * kMs}) {
    ExpectSameDurations(run(jump, 0), calm);
    ExpectSameDurations(run(0, jump), calm);
  }
}

// No clock runs through both attempts.
TEST_F(Clocks, AGapAcrossABootOrHostsIsByWallClocksAndSaysSo) {
  for (const bool other_host : {false, true}) {
    Host later = other_host ? b_ : a_;
    later.wall_ns = a_.wall_ns;
    later.boot = 99;
    later.clock_ns = other_host ? 5 * kMs : 500'000 * kMs;  // not less than before: no sign of it
    for (int rank = 0; rank < 2; ++rank) {
      // A jump within the first attempt is over when it ends.
      Put(0, rank, RankFile(a_, 0, rank, 10'000 * kMs, 20'000 * kMs, {0, 0}, 40 * kMs));
      Host after = later;
      after.wall_ns += 40 * kMs;
      Put(1, rank, RankFile(after, 1, rank, 21'500 * kMs, 30'000 * kMs, {0, 0}));
    }
    const RunReport report = Report();
    EXPECT_EQ(report.attribution.attempts[1].gap_before_ns, 1'500 * kMs) << other_host;
    EXPECT_TRUE(report.attribution.attempts[1].gap_by_wall_clock) << other_host;
    EXPECT_NE(RenderText(report).find("by wall clocks"), std::string::npos);
  }
}

// The supervisor's host says it is an hour later than it is.
TEST_F(Clocks, ASupervisorElsewhereIsHeldByWhatComesBeforeWhat) {
  const auto run = [&](int64_t wall_ns) {
    for (int rank = 0; rank < 2; ++rank) {
      Put(0, rank, RankFile(a_, 0, rank, 10'000 * kMs, 20'000 * kMs, {0, 0}));
    }
    SupervisorBytes supervisor("head", 9'000 * kMs, a_.wall_ns + wall_ns, 33);
    supervisor.AttemptBegin(9'800 * kMs, 0, 2);
    supervisor.Exit(20'100 * kMs, 0, 0, 0);
    supervisor.Exit(20'160 * kMs, 0, 1, 0);
    supervisor.AttemptEnd(20'400 * kMs, 0);
    PutSupervisor(0, supervisor.bytes());
    return Report();
  };
  const RunReport right = run(0), jumped = run(3'600'000 * kMs);
  EXPECT_EQ(right.attribution.total.At(State::kLaunch), 2 * (200 + 10) * kMs);
  EXPECT_EQ(right.clock_bound_ns, 200 * kMs);
  // 200 ms before the ranks at most, 100 ms behind at most: the middle.
  EXPECT_EQ(jumped.attribution.total.At(State::kLaunch), 2 * (200 - 50 + 10) * kMs);
  EXPECT_EQ(jumped.clock_bound_ns, 150 * kMs);
  EXPECT_EQ(jumped.attribution.allocated, right.attribution.allocated);
}

}  // namespace
}  // namespace muster::runtime
