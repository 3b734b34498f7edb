#pragma once
// A supervisor over ranks that are functions of the test, and what it wrote down about them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "launch/supervisor.h"
#include "runtime/goodput/ledger_files.h"
#include "tests/support/launch/forked_ranks.h"

namespace muster::launch {

inline void Sleep(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

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
  void ExpectFirstFailure(runtime::FailureKind kind, std::vector<int> ranks,
                          double within_seconds = 1) {
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
  // Sends a signal to this process from another one, in a while: to the main thread, which the
  // supervisor has blocked it in; a library's idle threads would die of it.
  static pid_t SignalMeIn(int ms, int number, int times = 1) {
    const pid_t parent = getpid(), child = fork();
    if (child != 0) return child;
    for (int i = 0; i < times; ++i) {
      Sleep(ms);
      syscall(SYS_tgkill, parent, parent, number);
    }
    _exit(0);
  }

  std::string directory_;
  std::ostringstream said_;
  std::vector<StartPlan> plans_;
  std::vector<runtime::SupervisedAttempt> attempts_;
};

}  // namespace muster::launch
