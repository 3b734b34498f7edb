// The supervisor's half of the ledger: written, read back, joined with the ranks', attributed.
#include "runtime/goodput/supervisor_ledger.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/goodput/attempt_end.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/report.h"
#include "runtime/goodput/supervised.h"
#include "runtime/goodput/supervisor_record.h"
#include "runtime/job/exit_code.h"
#include "tests/support/runtime/ledger_bytes.h"
#include "tests/support/runtime/log_builder.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

Failure CrashOf(int rank, int64_t happened_ns, int64_t detected_ns) {
  Failure failure;
  failure.kind = FailureKind::kCrash;
  failure.ranks = {rank};
  failure.exit_code = 137;
  failure.happened_ns = happened_ns;
  failure.detected_ns = detected_ns;
  failure.evidence = "rank 1 died of signal 9 in step 7";
  return failure;
}

std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

TEST(SupervisorLedger, WhatIsWrittenIsReadBack) {
  const ScratchDirectory scratch;
  SupervisorBegin begin;
  begin.config_hash = 77;
  begin.scheduler = {"4711", 2, 1000, 1500};
  begin.host = "node1";
  {
    auto ledger = SupervisorLedger::Create(scratch.path(), begin);
    ASSERT_TRUE(ledger.ok()) << ledger.status();
    (*ledger)->AttemptBegin(3, 4);
    (*ledger)->Host(3, {.name = "node1", .devices = 4, .ranks = 4});
    (*ledger)->Host(3, {.name = "node9", .devices = 8});
    (*ledger)->Spawn(3, 1234);
    Failure slow = CrashOf(2, 0, INT64_MAX);
    slow.kind = FailureKind::kStraggler;
    (*ledger)->Detect(3, slow);
    (*ledger)->Detect(3, CrashOf(1, 0, INT64_MAX));
    (*ledger)->Teardown(3);
    (*ledger)->Exit(3, 1, 137);
    (*ledger)->SpareIn(3, "node9");
    (*ledger)->AttemptEnd(3, 137, Action::kRestart);
    (*ledger)->AttemptBegin(4, 2);
    EXPECT_TRUE((*ledger)->status().ok());
  }
  const std::string path = scratch.path() + "/ledger/" + SupervisorFileName(0);
  const auto log = ParseSupervisorLedger(BytesOf(path));
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_TRUE(log->damage.empty());
  EXPECT_EQ(log->begin.config_hash, 77u);
  EXPECT_EQ(log->begin.host, "node1");
  EXPECT_EQ(log->begin.scheduler, begin.scheduler);
  ASSERT_EQ(log->attempts.size(), 2u);
  const SupervisedAttempt& attempt = log->attempts[0];
  EXPECT_EQ(attempt.attempt, 3);
  EXPECT_EQ(attempt.world_size, 4);
  ASSERT_TRUE(attempt.failure && attempt.kill_ns && attempt.end_ns && attempt.spawn_ns);
  EXPECT_EQ(attempt.failure->kind, FailureKind::kCrash);
  EXPECT_EQ(attempt.failure->ranks, std::vector<int>{1});
  EXPECT_EQ(attempt.failure->evidence, CrashOf(1, 0, 0).evidence);
  // Times outside of the attempt are moved into it.
  EXPECT_GE(attempt.failure->happened_ns, attempt.begin_ns);
  EXPECT_LE(attempt.failure->detected_ns, *attempt.kill_ns);
  ASSERT_EQ(attempt.stragglers.size(), 1u);
  EXPECT_EQ(attempt.spares, std::vector<std::string>{"node9"});
  ASSERT_EQ(attempt.hosts.size(), 2u);
  EXPECT_EQ(attempt.hosts[0].ranks, 4);
  EXPECT_EQ(attempt.hosts[1].name, "node9");
  EXPECT_EQ(attempt.hosts[1].devices, 8);
  ASSERT_EQ(attempt.exits.size(), 1u);
  EXPECT_EQ(attempt.exits[0].rank, 1);
  EXPECT_EQ(attempt.exits[0].status, 137);
  EXPECT_EQ(attempt.exit_code, 137);
  EXPECT_EQ(attempt.action, Action::kRestart);
  EXPECT_FALSE(log->attempts[1].end_ns);
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms(0600));
}

TEST(SupervisorLedger, EachProcessHasItsOwnFileAndAttemptsCountOn) {
  const ScratchDirectory scratch;
  EXPECT_EQ(NextAttempt(scratch.path()), 0);
  auto first = SupervisorLedger::Create(scratch.path(), {});
  ASSERT_TRUE(first.ok());
  (*first)->AttemptBegin(0, 2);
  (*first)->AttemptEnd(0, 1, Action::kRestart);
  (*first)->AttemptBegin(1, 2);
  EXPECT_EQ(NextAttempt(scratch.path()), 2);
  auto second = SupervisorLedger::Create(scratch.path(), {});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(std::filesystem::exists(scratch.path() + "/ledger/" + SupervisorFileName(1)));
  std::filesystem::create_directories(AttemptDirectory(scratch.path(), 6));
  EXPECT_EQ(NextAttempt(scratch.path()), 7);
}

TEST(SupervisorLedger, DamageCostsTheRecordsItHitsAndNothingElse) {
  const ScratchDirectory scratch;
  {
    auto ledger = SupervisorLedger::Create(scratch.path(), {});
    ASSERT_TRUE(ledger.ok());
    for (int attempt = 0; attempt < 20; ++attempt) {
      (*ledger)->AttemptBegin(attempt, 2);
      (*ledger)->Detect(attempt, CrashOf(1, 0, 0));
      (*ledger)->Teardown(attempt);
      (*ledger)->AttemptEnd(attempt, 1, Action::kRestart);
    }
  }
  const std::string whole = BytesOf(scratch.path() + "/ledger/" + SupervisorFileName(0));
  for (size_t size = 0; size < whole.size(); size += 13) {  // cut
    const auto log = ParseSupervisorLedger(std::string_view(whole).substr(0, size));
    if (log.ok()) EXPECT_LE(log->attempts.size(), 20u);
  }
  int unharmed = 0;
  for (size_t at = 100; at < whole.size(); at += 7) {  // flipped
    std::string bytes = whole;
    bytes[at] ^= 0x10;
    const auto log = ParseSupervisorLedger(bytes);
    ASSERT_TRUE(log.ok()) << at;
    EXPECT_GE(log->attempts.size(), 19u) << at;
    unharmed += log->damage.empty() ? 1 : 0;
  }
  EXPECT_EQ(unharmed, 0);
}

// Two ranks; attempt 0 crashes in step 3, attempt 1 resumes at step 2. Seconds as ns, so that each
// number can be seen in the result.
class Supervised : public ::testing::Test {
 protected:
  static AttemptLog RanksOf(char kind) {
    LogBuilder builder(2);
    builder.BeginAttempt().In(State::kInitModel, 5).Steps(0, 3);
    if (kind == 'c') builder.Unfinished(3, 4);
    return builder.Dies(0).Build().attempts[0];
  }
};

TEST_F(Supervised, TheLastStateEndsAtTheFailureAndTheRestIsDetectAndTeardown) {
  AttemptLog attempt = RanksOf('c');
  attempt.end_ns.reset();
  attempt.begin_ns.reset();
  const int64_t start = attempt.ranks[0].process_start_ns, death = attempt.ranks[0].end_ns;
  attempt.ranks[1].end_ns += 9 * kSecondNs;  // alive, blocked and beating until it was killed
  SupervisorLog log;
  SupervisedAttempt supervised;
  supervised.world_size = 2;
  supervised.begin_ns = start - 2 * kSecondNs;
  supervised.failure = CrashOf(0, death + 1 * kSecondNs, death + 3 * kSecondNs);
  supervised.kill_ns = death + 8 * kSecondNs;
  supervised.end_ns = death + 15 * kSecondNs;
  JoinSupervisor(log, supervised, &attempt);
  const auto found = Attribute({{attempt}});
  ASSERT_TRUE(found.ok()) << found.status();
  const DeviceTime& time = found->total;
  EXPECT_EQ(time.At(State::kLaunch), 2 * 2 * kSecondNs);
  EXPECT_EQ(time.At(State::kInitModel), 2 * 5 * kSecondNs);
  EXPECT_EQ(time.At(StepFate::kProductive), 2 * 30 * kSecondNs);
  EXPECT_EQ(time.lost_partial, 2 * 5 * kSecondNs);  // until the failure, one second later
  EXPECT_EQ(time.At(State::kDetect), 2 * 7 * kSecondNs);
  EXPECT_EQ(time.At(State::kTeardown), 2 * 7 * kSecondNs);
  EXPECT_EQ(found->allocated, 2 * (2 + 5 + 30 + 4 + 15) * kSecondNs);
}

TEST_F(Supervised, WhatARankWroteAfterTheFailureStands) {
  AttemptLog attempt = RanksOf('-');
  attempt.end_ns.reset();
  const int64_t end = attempt.ranks[0].end_ns;
  SupervisorLog log;
  SupervisedAttempt supervised;
  supervised.begin_ns = *attempt.begin_ns;
  supervised.failure = CrashOf(0, end - 15 * kSecondNs, end);  // before the last step ended
  supervised.kill_ns = end;
  supervised.end_ns = end + kSecondNs;
  for (RankLog& rank : attempt.ranks) rank.phases.push_back({end, State::kUnknown, -1});
  JoinSupervisor(log, supervised, &attempt);
  const auto found = Attribute({{attempt}});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->total.At(StepFate::kProductive), 2 * 30 * kSecondNs);
  EXPECT_EQ(found->total.lost_partial, 0);
}

TEST_F(Supervised, ARankThatOutlivesItsAttemptDoesNotMakeItLonger) {
  AttemptLog attempt = RanksOf('c');
  const int64_t start = attempt.ranks[0].process_start_ns, end = attempt.ranks[0].end_ns;
  // Frozen with its host, then thawed: it ends its step, begins another, and is told to leave.
  RankLog& thawed = attempt.ranks[1];
  thawed.steps.back().finished = true;
  thawed.steps.back().time_ns[parallel::kCompute] = 604 * kSecondNs;
  thawed.phases.push_back({end + 600 * kSecondNs, State::kUnknown, -1});
  thawed.phases.push_back({end + 601 * kSecondNs, State::kStep, 4});
  thawed.steps.emplace_back().step = 4;
  thawed.end_ns = end + 602 * kSecondNs;
  thawed.exit_code = 1;
  SupervisedAttempt supervised;
  supervised.world_size = 2;
  supervised.begin_ns = start;
  supervised.failure = CrashOf(1, end + 1 * kSecondNs, end + 3 * kSecondNs);
  supervised.kill_ns = end + 8 * kSecondNs;
  supervised.end_ns = end + 15 * kSecondNs;
  JoinSupervisor({}, supervised, &attempt);
  const auto found = Attribute({{attempt}});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->allocated, 2 * (*supervised.end_ns - start));
  EXPECT_EQ(found->total.lost_partial, 2 * 5 * kSecondNs);  // until the failure
  EXPECT_EQ(found->total.At(State::kDetect), 2 * 7 * kSecondNs);
  EXPECT_EQ(found->attempts[0].dead_ranks, (std::vector<int>{0, 1}));
}

TEST_F(Supervised, ARankWithoutItsLastRecordIsDoneIfItsSupervisorSaysSo) {
  AttemptLog attempt = RanksOf('-');
  attempt.ranks[0].exit_code = kExitDone;
  SupervisedAttempt supervised;
  supervised.world_size = 2;
  supervised.begin_ns = *attempt.begin_ns;
  supervised.end_ns = attempt.ranks[0].end_ns + kSecondNs;
  supervised.action = Action::kFinish;
  JoinSupervisor({}, supervised, &attempt);
  const auto report = MakeReport("x", {{{attempt}}, {}});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(HowItEnded(report->attribution.attempts[0]), "done");
  EXPECT_EQ(report->failures, 0);
  EXPECT_EQ(report->steps_at_risk, 0);
}

// Every rank is gone by then: what follows the notice is the wait before the next start.
TEST_F(Supervised, WithNothingLeftToKillTeardownBeginsAtTheNotice) {
  AttemptLog attempt = RanksOf('c');
  const int64_t death = attempt.ranks[0].end_ns;
  SupervisedAttempt supervised;
  supervised.world_size = 2;
  supervised.begin_ns = *attempt.begin_ns;
  supervised.failure = CrashOf(0, death, death + 3 * kSecondNs);
  supervised.end_ns = death + 63 * kSecondNs;
  JoinSupervisor({}, supervised, &attempt);
  const auto found = Attribute({{attempt}});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->total.At(State::kDetect), 2 * 3 * kSecondNs);
  EXPECT_EQ(found->total.At(State::kTeardown), 2 * 60 * kSecondNs);
}

TEST_F(Supervised, AnAttemptThatNeverCameUpIsLaunchNotUnknown) {
  SupervisorLog log;
  log.begin.host = "node1";
  SupervisedAttempt supervised;
  supervised.world_size = 4;
  supervised.begin_ns = 100 * kSecondNs;
  supervised.failure = CrashOf(0, 103 * kSecondNs, 104 * kSecondNs);
  supervised.failure->kind = FailureKind::kLaunch;
  supervised.kill_ns = 105 * kSecondNs;
  supervised.end_ns = 107 * kSecondNs;
  AttemptLog attempt;
  JoinSupervisor(log, supervised, &attempt);
  const auto found = Attribute({{attempt}});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->total.At(State::kLaunch), 4 * 3 * kSecondNs);
  EXPECT_EQ(found->total.At(State::kDetect), 4 * 2 * kSecondNs);
  EXPECT_EQ(found->total.At(State::kTeardown), 4 * 2 * kSecondNs);
  EXPECT_EQ(found->total.At(State::kUnknown), 0);
}

TEST_F(Supervised, ASupervisorOnAnotherHostIsPlacedByTheWallClock) {
  AttemptLog attempt = RanksOf('c');
  attempt.clock.host = "node1";
  const int64_t start = attempt.ranks[0].process_start_ns;
  attempt.begin_realtime_ns = start + 5'000 * kSecondNs;  // node1's monotonic clock + 5,000 s
  SupervisorLog log;
  log.begin.host = "head";
  log.begin_monotonic_ns = 10 * kSecondNs;
  log.begin_realtime_ns = log.begin_monotonic_ns + 7'000 * kSecondNs;
  SupervisedAttempt supervised;
  supervised.begin_ns = start - 2'000 * kSecondNs - kSecondNs;  // one second before the ranks
  JoinSupervisor(log, supervised, &attempt);
  EXPECT_EQ(*attempt.begin_ns, start - kSecondNs);
}

TEST(SupervisorLedger, TheReportTellsWhatEndedEachAttempt) {
  LogBuilder builder(2);
  RunLedger ledger;
  ledger.log = builder.BeginAttempt()
                   .Steps(0, 10)
                   .Dies(4)
                   .BeginAttempt()
                   .In(State::kInitModel, 6)
                   .Steps(8, 12)
                   .Ends(0)
                   .Build();
  AttemptLog& first = ledger.log.attempts[0];
  const int64_t death = first.ranks[0].end_ns;
  first.failure = CrashOf(1, death, death + kSecondNs);
  first.kill_ns = death + 2 * kSecondNs;
  first.exits = {{1, kExitNotKnown, death + kSecondNs},
                 {0, 143, death + 3 * kSecondNs},
                 {kStarterRank, 137, death + 4 * kSecondNs}};
  ledger.log.attempts[1].spares_in = {"node9"};
  const auto report = MakeReport("x", std::move(ledger));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->failures, 1);
  EXPECT_EQ(*report->mean_time_to_detect_seconds, 1);
  EXPECT_EQ(*report->mean_time_to_restart_seconds, 3 + 6);  // from the notice to the next step
  ASSERT_EQ(report->lost_by_failure.size(), 1u);
  EXPECT_EQ(report->lost_by_failure[0].first, "crash");
  // Steps 8 and 9 again, 2 s detect, 2 s teardown, 6 s start-up, on two devices.
  EXPECT_EQ(report->lost_by_failure[0].second, 2 * (20 + 4 + 6) * kSecondNs);
  const std::string text = RenderText(*report);
  EXPECT_NE(text.find("crash, rank 1\n"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1 died of signal 9 in step 7"), std::string::npos) << text;
  EXPECT_NE(text.find("ended: rank 1 without a word, rank 0 with 143 (signal 15), the starter"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("came in: node9\n"), std::string::npos) << text;
  EXPECT_NE(RenderJson(*report).find("\"seconds_to_detect\": 1.0"), std::string::npos);
  const auto attempts = nlohmann::json::parse(RenderJson(*report))["attempts"];
  EXPECT_EQ(attempts[0]["exits"].size(), 3u);
  EXPECT_TRUE(attempts[0]["exits"][0]["status"].is_null());
  EXPECT_EQ(attempts[0]["exits"][1]["rank"], 0);
  EXPECT_EQ(attempts[0]["exits"][1]["seconds"], 100 + 3);
  EXPECT_TRUE(attempts[0]["exits"][2]["rank"].is_null());
  EXPECT_EQ(attempts[1]["spares_in"][0], "node9");
}

}  // namespace
}  // namespace muster::runtime
