// The report of a real run against what its ranks were made to do: processes that sleep for known
// reasons, write real ledgers under a real supervisor, and are killed. Each category must be what
// the ranks measured themselves, within 1 % or 50 ms a device, and by how much later than asked for
// the machine woke them up: nothing on a quiet one.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "kernels/device/span.h"
#include "launch/exit_codes.h"
#include "launch/supervisor.h"
#include "runtime/goodput/report.h"
#include "tests/support/launch/forked_ranks.h"

namespace muster::launch {
namespace {

using kernels::MonotonicNs;
using runtime::State;

constexpr int kRanks = 2;
constexpr int64_t kSteps = 30, kCrashIn = 18, kRestored = 10;

// A rank's own account of its time, kept in a file, so that a death does not lose it.
class Account {
 public:
  explicit Account(const std::string& path) : file_(path, std::ios::app) {}
  void Book(const std::string& name, int64_t ns) { file_ << name << " " << ns << std::endl; }

 private:
  std::ofstream file_;
};

int64_t overslept_ns = 0;  // of this rank

// Sleeps, and tells how long it really took.
int64_t Pass(int ms) {
  const int64_t begin = MonotonicNs();
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  const int64_t took = MonotonicNs() - begin;
  overslept_ns += took - ms * int64_t{1'000'000};
  return took;
}

// Waits for all ranks, as a collective would.
int64_t Meet(const std::string& directory, const ForkedRank& rank) {
  const int64_t begin = MonotonicNs();
  const std::string here = directory + "/here-";
  std::ofstream(here + std::to_string(rank.rank)) << std::flush;
  for (int other = 0; other < rank.num_ranks; ++other) {
    while (!std::filesystem::exists(here + std::to_string(other))) Pass(1);
  }
  return MonotonicNs() - begin;
}

// Steps of 40 ms of work, of which each third waits 200 ms for data; a checkpoint each 5.
int Train(const ForkedRank& rank, const std::string& directory) {
  Account account(directory + "/account-" + std::to_string(rank.rank));
  runtime::AttemptBegin begin;
  begin.attempt = rank.attempt;
  begin.rank = rank.rank;
  begin.world_size = rank.num_ranks;
  begin.peak_flops = 1e12;
  begin.process_start_monotonic_ns = MonotonicNs();
  char host[64] = "";
  gethostname(host, sizeof(host) - 1);
  begin.host = host;
  auto ledger = runtime::LedgerWriter::Create(directory, begin, &rank.progress);
  if (!ledger.ok()) return 1;
  (*ledger)->Enter(State::kInitModel);
  account.Book("init_model", Pass(300));
  const bool again = rank.attempt > 0;
  if (again) (*ledger)->Enter(State::kCheckpointLoad);
  if (again) account.Book("checkpoint_load", Pass(150));
  for (int64_t step = again ? kRestored + 1 : 1; step <= kSteps; ++step) {
    const bool kept = again || step <= kRestored;
    (*ledger)->StepBegin(step);
    runtime::StepEnd end;
    end.step = step;
    end.model_flops = 1;
    if (step % 3 == 0) end.time_ns[parallel::kData] = Pass(200);
    if (!again && step == kCrashIn) {
      account.Book("lost_partial", Pass(40) + Meet(directory, rank) + end.time_ns[parallel::kData]);
      account.Book("overslept", overslept_ns);
      if (rank.rank == 1) raise(SIGKILL);
      Pass(60'000);  // waits for the dead one
    }
    end.time_ns[parallel::kCompute] = Pass(40);
    (*ledger)->StepEnded(end);
    const int64_t whole = end.time_ns[parallel::kCompute] + end.time_ns[parallel::kData];
    account.Book(kept ? "data" : "rework", kept ? end.time_ns[parallel::kData] : whole);
    if (kept) account.Book("compute", end.time_ns[parallel::kCompute]);
    if (step % 5 != 0) continue;
    (*ledger)->Enter(State::kCheckpointStall);
    account.Book("checkpoint_stall", Pass(70));
  }
  (*ledger)->Enter(State::kEval);
  account.Book("eval", Pass(400));
  account.Book("overslept", overslept_ns);
  (*ledger)->End(0);
  return 0;
}

class Truth : public ::testing::Test {
 protected:
  Truth() {
    char pattern[] = "/tmp/muster_truth_XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~Truth() override { std::filesystem::remove_all(directory_); }
  std::map<std::string, double> Accounts() const {
    std::map<std::string, double> seconds;
    for (int rank = 0; rank < kRanks; ++rank) {
      std::ifstream file(directory_ + "/account-" + std::to_string(rank));
      std::string name;
      for (int64_t ns = 0; file >> name >> ns;) seconds[name] += static_cast<double>(ns) * 1e-9;
    }
    return seconds;
  }
  std::string directory_;
};

TEST_F(Truth, EachCategoryIsWhatTheRanksDid) {
  SupervisorOptions options;
  options.run_directory = directory_;
  options.num_ranks = kRanks;
  options.command = [](int) { return std::vector<std::string>{"none"}; };
  ForkedRanks ranks([this](const ForkedRank& rank) { return Train(rank, directory_); });
  std::ostringstream said;
  const auto supervisor = Supervisor::Create(std::move(options), ranks, said);
  ASSERT_TRUE(supervisor.ok()) << supervisor.status();
  const int64_t begin = MonotonicNs();
  ASSERT_EQ((*supervisor)->Run(), kExitDone) << said.str();
  const double wall = static_cast<double>(MonotonicNs() - begin) * 1e-9;

  const auto report = runtime::ReportOf(directory_);
  ASSERT_TRUE(report.ok()) << report.status();
  std::map<std::string, double> found;
  double sum = 0;
  for (const auto& [name, ns] : report->by_category) {
    found[name] = static_cast<double>(ns) * 1e-9;
    sum += found[name];
  }
  const std::map<std::string, double> accounts = Accounts();
  const double overslept = accounts.at("overslept");
  for (const auto& [name, seconds] : accounts) {
    if (name == "overslept") continue;
    EXPECT_NEAR(found[name], seconds, std::max(0.01 * seconds, 0.05 * kRanks) + overslept) << name;
  }
  // The whole of the supervisor's time is on the books, back-off and outage included.
  EXPECT_NEAR(sum, wall * kRanks, std::max(0.01 * wall, 0.05) * kRanks + overslept);
  EXPECT_LT(found["unknown"], 0.005 * sum + overslept);
  EXPECT_EQ(report->failures, 1);
  EXPECT_LT(*report->mean_time_to_detect_seconds, 1);
  EXPECT_EQ(report->attribution.productive_steps, kSteps);
  EXPECT_EQ(report->attribution.attempts[0].rework_steps, kCrashIn - 1 - kRestored);
}

}  // namespace
}  // namespace muster::launch
