// The supervisor against ranks that crash, hang, err, obey and disobey: real processes and sockets,
// without MPI.
#include "launch/supervisor.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "kernels/device/span.h"
#include "launch/exit_codes.h"
#include "runtime/checkpoint/retention.h"
#include "tests/support/launch/supervisor_fixture.h"

namespace muster::launch {
namespace {

using runtime::FailureKind;

TEST_F(SupervisorTest, AJobThatEndsWellIsDone) {
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              rank.Steps(1, 3);
              return 0;
            }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 1u) << said_.str();
  EXPECT_FALSE(attempts_[0].failure);
  EXPECT_EQ(attempts_[0].action, runtime::Action::kFinish);
  EXPECT_EQ(attempts_[0].world_size, 3);
}

TEST_F(SupervisorTest, AKilledRankIsNoticedWithinASecondAndTheJobGoesOn) {
  EXPECT_EQ(Run([this](const ForkedRank& rank) {
              rank.Steps(1, 3);
              if (rank.attempt == 0 && rank.rank == 1) {
                std::ofstream(directory_ + "/death") << kernels::MonotonicNs() << std::flush;
                raise(SIGKILL);
              }
              if (rank.attempt == 0) Sleep(60'000);  // waits for it in a collective
              return 0;
            }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 2u) << said_.str();
  ExpectFirstFailure(FailureKind::kCrash, {1});
  int64_t death_ns = 0;
  std::ifstream(directory_ + "/death") >> death_ns;
  EXPECT_GT(attempts_[0].failure->detected_ns, death_ns);
  EXPECT_LE(attempts_[0].failure->detected_ns - death_ns, 1'000'000'000);
  EXPECT_EQ(attempts_[0].failure->exit_code, 128 + SIGKILL);
  EXPECT_NE(attempts_[0].failure->evidence.find("3 steps done"), std::string::npos)
      << attempts_[0].failure->evidence;
  EXPECT_EQ(attempts_[0].action, runtime::Action::kRestart);
  using Exits = std::vector<std::pair<int, int>>;
  const Exits first = ExitsOf(0);
  EXPECT_EQ(first[0], (std::pair{1, runtime::kExitNotKnown})) << "nobody knows of what";
  EXPECT_EQ(std::count(first.begin(), first.end(), std::pair{runtime::kStarterRank, 128 + SIGKILL}),
            1);
  Exits last = ExitsOf(1);
  std::sort(last.begin(), last.end());
  EXPECT_EQ(last, (Exits{{runtime::kStarterRank, 0}, {0, 0}, {1, 0}, {2, 0}}));
  // From the crash to the next start: detection, teardown, no back-off.
  EXPECT_LT(attempts_[1].begin_ns - attempts_[0].failure->happened_ns, 5'000'000'000);
}

// Waits in the second of two all-reduces, as a rank of a job does whose rank 2 does not come.
int HangInTheSecondAllReduce(const ForkedRank& rank, void (*instead)(const ForkedRank&)) {
  rank.calls.AddGroup({"all", {0, 1, 2}});
  const auto call = [&](uint64_t sequence) {
    const uint64_t id = rank.calls.Enqueued("all", sequence, parallel::CollectiveKind::kAllReduce,
                                            4000, "parallel/dp/x.cc:90");
    rank.calls.Started(id);
    return id;
  };
  rank.Steps(1, 3);
  rank.calls.SetPlace({.step = 4});
  rank.calls.Done(call(0), true);
  if (rank.rank == 2) instead(rank);
  call(1);
  Sleep(60'000);
  return 0;
}

TEST_F(SupervisorTest, AStoppedRankIsNamedExplainedAndKilled) {
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              if (rank.attempt > 0) return 0;
              return HangInTheSecondAllReduce(rank, [](const ForkedRank&) { raise(SIGSTOP); });
            }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 2u) << said_.str();
  ExpectFirstFailure(FailureKind::kHang, {2}, 2 + 1);
  const std::string line =
      "rank 2 (stopped) missing in all_reduce #1 of all, step 4, parallel/dp/x.cc:90";
  EXPECT_EQ(attempts_[0].failure->evidence.substr(0, line.size()), line);
  std::stringstream report;
  report << std::ifstream(directory_ + "/hang/attempt-0/report.txt").rdbuf();
  for (const std::string& text : {said_.str(), report.str()}) {
    for (const char* part :
         {"hang: the first collective on which ranks differ, as not all have come to it: "
          "all_reduce #1 of group all, step 4, 4000 bytes, from parallel/dp/x.cc:90",
          "rank 2 has not come to it, and wrote no log", "rank 2's process is stopped by a signal",
          "rank 0 waits for rank 2", "rank 1 waits for rank 2", "stacks"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " not in\n" << text;
    }
  }
  EXPECT_NE(said_.str().find(line + ": restarting from the newest checkpoint"), std::string::npos);
  for (const char* rank : {"rank-2", "rank-0"}) {  // to blame, and one that waits for it
    std::stringstream stack;
    stack << std::ifstream(directory_ + "/hang/attempt-0/" + rank + ".stack").rdbuf();
    EXPECT_NE(stack.str().find("#0"), std::string::npos)
        << rank << ": '" << stack.str() << "'; see muster doctor: is elfutils installed?";
  }
}

TEST_F(SupervisorTest, ARankThatIsBusyElsewhereIsNamedByTheLogs) {
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              if (rank.attempt > 0) return 0;
              return HangInTheSecondAllReduce(rank, [](const ForkedRank&) { Sleep(60'000); });
            }),
            kExitDone);
  // All beat and none is behind the others in steps: only the calls tell.
  ExpectFirstFailure(FailureKind::kHang, {2}, 2 + 1);
  EXPECT_NE(said_.str().find("rank 2 has not come to it, and is in no call"), std::string::npos)
      << said_.str();
}

// Ranks work 100 ms a step, rank 1 from step 11 on 110. Real heartbeats, at their real pace.
TEST_F(SupervisorTest, ARankThatBecomesTenPercentSlowerIsNamedWithinTwentySteps) {
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              rank.Steps(1, 10, 100);
              rank.Steps(11, 35, rank.rank == 1 ? 110 : 100);
              return 0;
            }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 1u) << said_.str();
  EXPECT_FALSE(attempts_[0].failure) << "the job goes on";
  ASSERT_EQ(attempts_[0].stragglers.size(), 1u) << said_.str();
  const runtime::Failure& slow = attempts_[0].stragglers[0];
  EXPECT_EQ(slow.ranks, std::vector<int>{1});
  int step = 0;
  const size_t at = slow.evidence.rfind("in step ");
  ASSERT_NE(at, std::string::npos) << slow.evidence;
  std::istringstream(slow.evidence.substr(at + 8)) >> step;
  EXPECT_GE(step, 11);
  EXPECT_LE(step, 31) << slow.evidence;
}

TEST_F(SupervisorTest, ARankThatErrsIsNamedWithItsExitCode) {
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              rank.Steps(1, 1);
              if (rank.attempt == 0 && rank.rank == 0) return 1;
              if (rank.attempt == 0) Sleep(60'000);
              return 0;
            }),
            kExitDone);
  ExpectFirstFailure(FailureKind::kError, {0});
  EXPECT_EQ(ExitsOf(0)[0], (std::pair{0, 1}));
}

TEST_F(SupervisorTest, ACrashLoopStopsAfterThreeAttemptsWithoutProgress) {
  EXPECT_EQ(Run(Options(1),
                [](const ForkedRank& rank) {
                  rank.Steps(1, 4, 5);
                  raise(SIGABRT);
                  return 0;
                }),
            kExitDoNotRequeue);
  // The first made progress, to step 4; the three after it made none.
  EXPECT_EQ(attempts_.size(), 4u) << said_.str();
  for (const auto& attempt : attempts_) {
    ASSERT_TRUE(attempt.end_ns && attempt.failure);
    EXPECT_EQ(attempt.failure->exit_code, 128 + SIGABRT);
  }
  EXPECT_EQ(attempts_.back().action, runtime::Action::kStop);
}

// A checkpoint that leads to the same bad numbers twice; the one before it does not.
TEST_F(SupervisorTest, ACheckpointThatLeadsToBadNumbersTwiceIsSetAside) {
  const std::string checkpoints = directory_ + "/checkpoints";
  for (const char* name : {"/step-2", "/step-4", "/step-6"}) {
    std::filesystem::create_directories(checkpoints + name);
  }
  EXPECT_EQ(Run(Options(2),
                [&](const ForkedRank& rank) {
                  const int64_t from = runtime::ListCheckpoints(checkpoints)->front();
                  rank.Steps(from + 1, 8);
                  return from > 2 ? kExitRollBack : 0;
                }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 4u) << said_.str();
  for (size_t attempt : {0, 1, 2}) {
    EXPECT_EQ(attempts_[attempt].failure->kind, FailureKind::kNumerics);
  }
  EXPECT_EQ(*runtime::ListCheckpoints(checkpoints), std::vector<int64_t>{2});
  EXPECT_TRUE(std::filesystem::exists(checkpoints + "/step-6.set_aside.attempt-2"));
  EXPECT_TRUE(std::filesystem::exists(checkpoints + "/step-4.set_aside.attempt-3"));
  EXPECT_EQ(*runtime::LastSetAside(checkpoints), 3);
}

TEST_F(SupervisorTest, WhatRanksSayOfThemselvesIsNotTriedAgain) {
  for (const int code : {kExitUsage, kExitDoNotRequeue, kExitRequeue}) {
    EXPECT_EQ(Run([code](const ForkedRank&) { return code; }), code);
    EXPECT_EQ(plans_.size(), 1u) << code;
    std::filesystem::remove_all(directory_);
  }
}

TEST_F(SupervisorTest, ARequestToStopIsPassedOnAndEndsWithRequeue) {
  const pid_t helper = SignalMeIn(600, SIGTERM);
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              for (int64_t step = 1; !rank.asked_to_stop(); ++step) rank.Steps(step, step, 1);
              Sleep(300);  // saves
              return kExitRequeue;
            }),
            kExitRequeue);
  waitpid(helper, nullptr, 0);
  ASSERT_EQ(attempts_.size(), 1u);
  ExpectFirstFailure(FailureKind::kPreempted, {});
}

TEST_F(SupervisorTest, ARequestToStopThatCameBeforeTheRanksReachesThem) {
  ForkedRanks ranks(
      [](const ForkedRank& rank) {
        for (int64_t step = 1; !rank.asked_to_stop(); ++step) rank.Steps(step, step, 1);
        return kExitRequeue;
      },
      directory_);
  ranks.StartAfter(800);
  const auto supervisor = Supervisor::Create(Options(), ranks, said_);
  ASSERT_TRUE(supervisor.ok()) << supervisor.status();
  const pid_t helper = SignalMeIn(200, SIGTERM);
  EXPECT_EQ((*supervisor)->Run(), kExitRequeue);
  waitpid(helper, nullptr, 0);
  EXPECT_EQ(said_.str().find("did not stop"), std::string::npos) << said_.str();
}

TEST_F(SupervisorTest, ARequestToStopThatCostsTheStateIsNotCalledWell) {
  const pid_t helper = SignalMeIn(600, SIGTERM);
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              for (int64_t step = 1; !rank.asked_to_stop(); ++step) rank.Steps(step, step, 1);
              return kExitNotSaved;
            }),
            kExitNotSaved);
  waitpid(helper, nullptr, 0);
  EXPECT_EQ(attempts_.size(), 1u) << said_.str();
}

TEST_F(SupervisorTest, RanksThatDoNotStopAreEnded) {
  SupervisorOptions options = Options();
  options.stop_grace_seconds = 0.5;
  const pid_t helper = SignalMeIn(600, SIGTERM);
  EXPECT_EQ(Run(options,
                [](const ForkedRank&) {
                  Sleep(60'000);
                  Sleep(60'000);
                  return 0;
                }),
            kExitRequeue);
  waitpid(helper, nullptr, 0);
}

TEST_F(SupervisorTest, ASecondInterruptWaitsForNobody) {
  const pid_t helper = SignalMeIn(500, SIGINT, 2);
  EXPECT_EQ(Run([](const ForkedRank&) {
              while (true) Sleep(1'000);
              return 0;
            }),
            kExitRequeue);
  waitpid(helper, nullptr, 0);
  EXPECT_NE(said_.str().find("interrupted twice"), std::string::npos) << said_.str();
}

TEST_F(SupervisorTest, ACrashWhileStoppingIsNotRestarted) {
  const pid_t helper = SignalMeIn(600, SIGTERM);
  EXPECT_EQ(Run([](const ForkedRank& rank) {
              while (!rank.asked_to_stop()) Sleep(10);
              if (rank.rank == 0) raise(SIGSEGV);
              Sleep(60'000);
              return 0;
            }),
            kExitRequeue);
  waitpid(helper, nullptr, 0);
  EXPECT_EQ(attempts_.size(), 1u) << said_.str();
  ExpectFirstFailure(FailureKind::kCrash, {0});
}

TEST_F(SupervisorTest, OneRunHasOneSupervisor) {
  ForkedRanks ranks([](const ForkedRank&) { return 0; });
  const auto first = Supervisor::Create(Options(), ranks, said_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Supervisor::Create(Options(), ranks, said_);
  EXPECT_TRUE(absl::IsAborted(second.status())) << second.status();
}

TEST_F(SupervisorTest, WhenTheSupervisorDiesItsRanksEndWithinTwoSeconds) {
  const pid_t supervisor = fork();
  if (supervisor == 0) {
    ForkedRanks ranks([this](const ForkedRank& rank) {
      std::ofstream(directory_ + "/pid-" + std::to_string(rank.rank)) << getpid() << std::flush;
      rank.Steps(1, 1);
      if (rank.rank == 2) {
        // Not even the pulse runs any more, nor would a handler: the starter must end this one.
        raise(SIGSTOP);
      }
      while (true) Sleep(1'000);
      return 0;
    });
    std::ostringstream said;
    SupervisorOptions options = Options();
    options.detector.deadlines.least_seconds = 60;
    auto made = Supervisor::Create(options, ranks, said);
    _exit(made.ok() ? (*made)->Run() : 99);
  }
  Sleep(2'000);
  kill(supervisor, SIGKILL);
  const int64_t death = kernels::MonotonicNs();
  waitpid(supervisor, nullptr, 0);
  for (int rank = 0; rank < 3; ++rank) {
    std::ifstream file(directory_ + "/pid-" + std::to_string(rank));
    pid_t pid = 0;
    file >> pid;
    ASSERT_GT(pid, 1) << "rank " << rank << " never came up";
    while (kill(pid, 0) == 0 && kernels::MonotonicNs() - death < 10'000'000'000) Sleep(10);
    EXPECT_LT(kernels::MonotonicNs() - death, 2'000'000'000) << "rank " << rank;
  }
  // Another one takes over, with a number of its own.
  EXPECT_EQ(runtime::NextAttempt(directory_), 1);
}

}  // namespace
}  // namespace muster::launch
