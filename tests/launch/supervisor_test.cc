// The supervisor against ranks that crash, hang, err, obey and disobey: real processes and sockets,
// without MPI.
#include "launch/supervisor.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "kernels/device/span.h"
#include "launch/exit_codes.h"
#include "launch/process_space.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/goodput/ledger_files.h"
#include "tests/support/launch/forked_ranks.h"

namespace muster::launch {
namespace {

using runtime::FailureKind;

void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    char pattern[] = "/tmp/muster_supervisor_XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~SupervisorTest() override { std::filesystem::remove_all(directory_); }

  SupervisorOptions Options(int num_ranks = 3) const {
    SupervisorOptions options;
    options.run_directory = directory_;
    options.num_ranks = num_ranks;
    options.command = [](int) { return std::vector<std::string>{"none"}; };
    options.recovery.first_backoff_seconds = 0.05;
    options.detector.deadlines.least_seconds = 2;
    options.stop_grace_seconds = 30;
    return options;
  }

  int Run(ForkedRanks::Function function) { return Run(Options(), std::move(function)); }
  int Run(SupervisorOptions options, ForkedRanks::Function function) {
    ForkedRanks ranks(std::move(function), directory_);
    const auto supervisor = Supervisor::Create(std::move(options), ranks, said_);
    if (!supervisor.ok()) {
      ADD_FAILURE() << supervisor.status();
      return -1;
    }
    const int code = (*supervisor)->Run();
    plans_ = ranks.plans();
    ReadLedger();
    return code;
  }
  void ReadLedger() {
    const auto bytes = runtime::ReadRegularFile(directory_ + "/ledger/supervisor-0.ledger");
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const auto log = runtime::ParseSupervisorLedger(*bytes);
    ASSERT_TRUE(log.ok()) << log.status();
    EXPECT_TRUE(log->damage.empty()) << log->damage[0];
    attempts_ = log->attempts;
  }
  // What the first attempt's failure was, and that it was noticed in time.
  void ExpectFirstFailure(FailureKind kind, std::vector<int> ranks, double within_seconds = 1) {
    ASSERT_FALSE(attempts_.empty());
    ASSERT_TRUE(attempts_[0].failure) << said_.str();
    const runtime::Failure& failure = *attempts_[0].failure;
    EXPECT_EQ(failure.kind, kind) << Name(failure.kind) << ": " << failure.evidence;
    EXPECT_EQ(failure.ranks, ranks) << failure.evidence;
    EXPECT_LE(static_cast<double>(failure.detected_ns - failure.happened_ns) * 1e-9,
              within_seconds);
  }
  // (rank, status) as they were seen.
  std::vector<std::pair<int, int>> ExitsOf(size_t attempt) const {
    std::vector<std::pair<int, int>> exits;
    for (const auto& exit : attempts_[attempt].exits) exits.emplace_back(exit.rank, exit.status);
    return exits;
  }
  // Sends a signal to this process from another one, in a while.
  static pid_t SignalMeIn(int ms, int number, int times = 1) {
    const pid_t parent = getpid(), child = fork();
    if (child != 0) return child;
    for (int i = 0; i < times; ++i) {
      Sleep(ms);
      kill(parent, number);
    }
    _exit(0);
  }

  std::string directory_;
  std::ostringstream said_;
  std::vector<StartPlan> plans_;
  std::vector<runtime::SupervisedAttempt> attempts_;
};

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

// Some ranks fall silent, as if their host had no power any more.
int FallSilent(const ForkedRank& rank, std::vector<int> silent) {
  rank.Steps(1, 3);
  if (std::find(silent.begin(), silent.end(), rank.rank) != silent.end()) raise(SIGSTOP);
  Sleep(60'000);
  return 0;
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

TEST_F(SupervisorTest, ASlowRankIsReplacedIfThatIsWanted) {
  SupervisorOptions options = Options(3);
  options.recovery.replace_stragglers = true;
  options.hosts = *HostPool::Make({{"a", 1}, {"b", 1}, {"c", 1}, {"spare", 1}}, 1, 3);
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  if (rank.attempt > 0) return 0;
                  rank.Steps(1, 10, 40);
                  rank.Steps(11, 1'000, rank.rank == 1 ? 60 : 40);
                  return 0;
                }),
            kExitDone);
  ASSERT_EQ(plans_.size(), 2u) << said_.str();
  EXPECT_EQ(plans_[1].host_of_rank, (std::vector<std::string>{"a", "spare", "c"}));
  ASSERT_EQ(attempts_[0].stragglers.size(), 1u) << said_.str();
  EXPECT_EQ(attempts_[0].stragglers[0].ranks, std::vector<int>{1});
  EXPECT_FALSE(attempts_[0].failure) << "a slow rank is none";
  EXPECT_EQ(attempts_[0].action, runtime::Action::kRestartWithSpare);
  EXPECT_EQ(attempts_[1].spares, std::vector<std::string>{"spare"});
}

// The stages of two ranks are not those of the first two of four.
TEST_F(SupervisorTest, RanksOfASmallerWorldAreComparedWithinItsStages) {
  SupervisorOptions options = Options(4);
  options.hosts = *HostPool::Make({{"a", 2}, {"b", 2}}, 0, 4);
  options.smaller = [](int most_ranks) { return most_ranks; };
  options.stages = [](int ranks) {
    return ranks == 4 ? std::vector<int>{0, 0, 1, 1} : std::vector<int>{0, 1};
  };
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  if (rank.attempt == 0) return FallSilent(rank, {2, 3});
                  rank.Steps(1, 30, rank.rank == 1 ? 60 : 30);
                  return 0;
                }),
            kExitDone);
  ASSERT_EQ(attempts_.size(), 2u) << said_.str();
  EXPECT_EQ(attempts_[1].world_size, 2);
  EXPECT_TRUE(attempts_[1].stragglers.empty()) << said_.str();
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

// Hosts of the file need not be called as they call themselves, and no rank here is on any of them.
TEST_F(SupervisorTest, AHostThatFailsTwiceIsReplacedWhateverItCallsItself) {
  const std::string bad = "a-name-longer-than-any-frame-had-room-for.rack7.example.org";
  SupervisorOptions options = Options(3);
  options.hosts = *HostPool::Make({{bad, 2}, {"10.0.0.7", 1}, {"spare1", 2}}, 1, 3);
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  Sleep(300);
                  if (rank.attempt < 2 && rank.rank == 1) raise(SIGKILL);
                  if (rank.attempt < 2) Sleep(60'000);
                  return 0;
                }),
            kExitDone);
  ASSERT_EQ(plans_.size(), 3u) << said_.str();
  EXPECT_EQ(plans_[1].host_of_rank, (std::vector<std::string>{bad, bad, "10.0.0.7"}));
  EXPECT_EQ(plans_[2].host_of_rank, (std::vector<std::string>{"spare1", "spare1", "10.0.0.7"}));
  EXPECT_EQ(attempts_[1].action, runtime::Action::kRestartWithSpare);
  EXPECT_EQ(attempts_[2].spares, std::vector<std::string>{"spare1"});
}

TEST_F(SupervisorTest, ALostHostIsReplacedAtOnce) {
  SupervisorOptions options = Options(4);
  options.hosts = *HostPool::Make({{"a", 2}, {"b", 2}, {"small", 1}, {"large", 3}}, 2, 4);
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  return rank.attempt > 0 ? 0 : FallSilent(rank, {2, 3});
                }),
            kExitDone);
  ExpectFirstFailure(FailureKind::kHostLost, {2, 3}, 2 + 1);
  ASSERT_EQ(plans_.size(), 2u) << said_.str();
  EXPECT_EQ(plans_[1].host_of_rank, (std::vector<std::string>{"a", "a", "large", "large"}));
  EXPECT_EQ(attempts_[1].spares, std::vector<std::string>{"large"});
}

TEST_F(SupervisorTest, ASmallerWorldGoesOnWithoutTheHostsThatAreLost) {
  SupervisorOptions options = Options(6);
  options.hosts = *HostPool::Make({{"a", 2}, {"b", 1}, {"c", 1}, {"d", 2}}, 0, 6);
  options.smaller = [](int most_ranks) { return most_ranks; };
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  return rank.attempt > 0 ? 0 : FallSilent(rank, {2, 4, 5});
                }),
            kExitDone);
  ExpectFirstFailure(FailureKind::kHostLost, {2, 4, 5}, 2 + 1);
  ASSERT_EQ(plans_.size(), 2u) << said_.str();
  EXPECT_EQ(plans_[1].host_of_rank, (std::vector<std::string>{"a", "a", "c"}));
  EXPECT_EQ(plans_[1].num_ranks, 3);
  EXPECT_EQ(attempts_[1].world_size, 3);
}

TEST_F(SupervisorTest, WithoutRoomForTheRanksOfALostHostTheJobIsRequeued) {
  SupervisorOptions options = Options(4);
  options.hosts = *HostPool::Make({{"a", 2}, {"b", 2}, {"spare", 1}}, 1, 4);
  options.smaller = [](int most_ranks) { return most_ranks >= 4 ? 4 : 0; };
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  return FallSilent(rank, {2, 3});
                }),
            kExitRequeue);
  EXPECT_EQ(plans_.size(), 1u) << said_.str();
}

// As when the host of a crashed rank has gone down: its mpirun cannot even start.
TEST_F(SupervisorTest, AStartThatFailsAfterACrashBlamesTheHostOfTheCrash) {
  SupervisorOptions options = Options(2);
  options.hosts = *HostPool::Make({{"a", 1}, {"b", 1}, {"spare", 1}}, 1, 2);
  ForkedRanks ranks(
      [](const ForkedRank& rank) {
        if (rank.attempt > 1) return 0;
        rank.Steps(1, 2);
        if (rank.rank == 1) raise(SIGKILL);
        Sleep(60'000);
        return 0;
      },
      directory_, {1});
  const auto supervisor = Supervisor::Create(options, ranks, said_);
  ASSERT_TRUE(supervisor.ok()) << supervisor.status();
  EXPECT_EQ((*supervisor)->Run(), kExitDone);
  ASSERT_EQ(ranks.plans().size(), 3u) << said_.str();
  EXPECT_EQ(ranks.plans()[1].host_of_rank, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(ranks.plans()[2].host_of_rank, (std::vector<std::string>{"a", "spare"}));
}

TEST_F(SupervisorTest, OneRunHasOneSupervisor) {
  ForkedRanks ranks([](const ForkedRank&) { return 0; });
  const auto first = Supervisor::Create(Options(), ranks, said_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Supervisor::Create(Options(), ranks, said_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
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

TEST(Hosts, FilesAreReadAsMpirunReadsThem) {
  const auto hosts = ParseHosts("# the rack\nnode1 slots=8\n\nnode2:4  \nnode-3.site # last\n");
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  EXPECT_EQ(*hosts, (std::vector<HostSlots>{{"node1", 8}, {"node2", 4}, {"node-3.site", 1}}));
  for (const char* bad : {"", "# none", "a b c", "a slots=0", "a slots=x", "a:0", "-x", "a;rm",
                          "a\na", "a slots=-1", "a:2 slots=2"}) {
    EXPECT_FALSE(ParseHosts(bad).ok()) << bad;
  }
  EXPECT_NE(ParseHosts("ok\nno good\n").status().message().find("line 2"), absl::string_view::npos);
}

TEST(Hosts, SparesWaitAndStepIn) {
  auto pool = HostPool::Make({{"a", 2}, {"b", 2}, {"c", 2}}, 1, 4);
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(pool->num_slots(), 4);
  EXPECT_EQ(pool->SlotsWithout({"a"}), 4);
  EXPECT_EQ(pool->Replace({"a"}, 4), std::vector<std::string>{"c"});
  EXPECT_EQ(pool->in_use(), (std::vector<HostSlots>{{"c", 2}, {"b", 2}})) << "at its place";
  EXPECT_EQ(pool->SlotsWithout({"b"}), 2);
  EXPECT_TRUE(pool->Replace({"b"}, 2).empty());
  EXPECT_EQ(pool->in_use(), (std::vector<HostSlots>{{"c", 2}}));
  EXPECT_FALSE(HostPool::Make({{"a", 2}}, 1, 1).ok());
  EXPECT_FALSE(HostPool::Make({{"a", 2}, {"b", 2}}, 1, 3).ok());
}

TEST(Hosts, NoMoreSparesComeInThanAreNeeded) {
  const std::vector<HostSlots> hosts = {{"a", 4}, {"b", 4}, {"s1", 1}, {"s2", 2}, {"s4", 4}};
  using Names = std::vector<std::string>;
  const struct {
    int num_ranks;
    Names out, in, order;
  } kCases[] = {
      {8, {"a"}, {"s4"}, {"s4", "b"}},
      {6, {"b"}, {"s2"}, {"a", "s2"}},
      {5, {"a"}, {"s1"}, {"s1", "b"}},
      {4, {"a"}, {}, {"b"}},
      {7, {"a", "b"}, {"s4", "s2", "s1"}, {"s4", "s2", "s1"}},
      {5, {"a", "b"}, {"s4", "s1"}, {"s4", "s1"}},
  };
  for (const auto& test : kCases) {
    auto pool = HostPool::Make(hosts, 3, test.num_ranks);
    ASSERT_TRUE(pool.ok());
    EXPECT_GE(pool->SlotsWithout(test.out), test.num_ranks);
    EXPECT_EQ(pool->Replace(test.out, test.num_ranks), test.in);
    Names order;
    for (const HostSlots& host : pool->in_use()) order.push_back(host.name);
    EXPECT_EQ(order, test.order);
    EXPECT_GE(pool->num_slots(), test.num_ranks);
  }
  const auto pool = HostPool::Make(hosts, 3, 8);
  EXPECT_EQ(pool->SlotsWithout({"a", "b"}), 7) << "all that is left is not enough";
  EXPECT_EQ(pool->SlotsWithout({"a", "nowhere"}), 0) << "who knows whether it is one of these";
}

TEST(Hosts, RanksFillThemInOrder) {
  const std::vector<HostSlots> hosts = {{"b", 2}, {"a", 1}, {"c", 3}};
  EXPECT_EQ(PlaceRanks(hosts, 4), (std::vector<std::string>{"b", "b", "a", "c"}));
  EXPECT_EQ(PlaceRanks(hosts, 1), (std::vector<std::string>{"b"}));
  EXPECT_TRUE(PlaceRanks({}, 4).empty());
}

// A number that a rank on another host reports must never be taken for a process here.
TEST(ProcessSpace, AnotherSpaceOfNumbersIsNotTakenForThisOne) {
  const uint64_t here = ProcessSpace();
  EXPECT_TRUE(IsSameSpace(here, ProcessSpace()));
  EXPECT_FALSE(IsSameSpace(here, here + 1));
  EXPECT_FALSE(IsSameSpace(0, 0)) << "not known";
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWPID) != 0) _exit(2);
    const pid_t within = fork();
    if (within == 0) _exit(IsSameSpace(here, ProcessSpace()) ? 1 : 0);
    int status = 0;
    waitpid(within, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "may not make PID namespaces";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Mpirun, NoSecretIsOnItsCommandLine) {
  StartPlan plan;
  plan.command = {"/bin/muster", "train", "x"};
  plan.num_ranks = 4;
  plan.environment = {{"MUSTER_SUPERVISOR_SECRET", "5ec4e7"}, {"MUSTER_ATTEMPT", "3"}};
  const std::vector<std::string> words = MpirunArguments(plan, {.is_root = true, .usable_cpus = 2});
  std::string line;
  for (const std::string& word : words) line += word + " ";
  EXPECT_EQ(line,
            "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 "
            "-x MUSTER_ATTEMPT -x MUSTER_SUPERVISOR_SECRET -np 4 /bin/muster train x ");
}

TEST(Mpirun, RanksGoWhereTheyWerePlaced) {
  StartPlan plan;
  plan.num_ranks = 3;
  plan.host_of_rank = {"node2", "node2", "node1"};
  std::vector<std::string> words = MpirunArguments(plan, {});
  words.resize(5);
  EXPECT_EQ(words,
            (std::vector<std::string>{"mpirun", "--map-by", "seq", "--host", "node2,node2,node1"}));
}

TEST(StartProcess, SaysWhatCannotBeRun) {
  const auto started = StartProcess({"/no/such/program"}, {});
  EXPECT_FALSE(started.ok());
  EXPECT_NE(started.status().message().find("/no/such/program"), absl::string_view::npos);
}

TEST(StartProcess, PassesTheEnvironmentOn) {
  const auto started = StartProcess({"sh", "-c", "test \"$MUSTER_X\" = y"}, {{"MUSTER_X", "y"}});
  ASSERT_TRUE(started.ok()) << started.status();
  int status = -1;
  waitpid(*started, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace muster::launch
