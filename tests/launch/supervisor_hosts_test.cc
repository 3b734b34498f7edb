// The supervisor and the hosts of its job: lost, failing, slow; replaced, or left out. Ranks are
// processes of this host, and hosts are names.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>

#include "launch/exit_codes.h"
#include "runtime/goodput/ledger_reader.h"
#include "tests/support/launch/supervisor_fixture.h"

namespace muster::launch {
namespace {

using runtime::FailureKind;

class SupervisorHosts : public SupervisorTest {};

// Some ranks fall silent, as if their host had no power any more.
int FallSilent(const ForkedRank& rank, std::vector<int> silent) {
  rank.Steps(1, 3);
  if (std::find(silent.begin(), silent.end(), rank.rank) != silent.end()) raise(SIGSTOP);
  Sleep(60'000);
  return 0;
}

// Hosts of the file need not be called as they call themselves, and no rank here is on any of them.
TEST_F(SupervisorHosts, AHostThatFailsTwiceIsReplacedWhateverItCallsItself) {
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

TEST_F(SupervisorHosts, ALostHostIsReplacedAtOnce) {
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

TEST_F(SupervisorHosts, ASmallerWorldGoesOnWithoutTheHostsThatAreLost) {
  SupervisorOptions options = Options(6);
  options.hosts = *HostPool::Make({{"a", 2}, {"b", 1}, {"c", 1}, {"d", 2}}, 0, 6);
  options.smaller = [](int most_ranks) { return most_ranks; };
  options.detector.deadlines.least_seconds = 4;  // hosts are lost together if half of it apart
  EXPECT_EQ(Run(options,
                [](const ForkedRank& rank) {
                  return rank.attempt > 0 ? 0 : FallSilent(rank, {2, 4, 5});
                }),
            kExitDone);
  ExpectFirstFailure(FailureKind::kHostLost, {2, 4, 5}, 4 + 1);
  ASSERT_EQ(plans_.size(), 2u) << said_.str();
  EXPECT_EQ(plans_[1].host_of_rank, (std::vector<std::string>{"a", "a", "c"}));
  EXPECT_EQ(plans_[1].num_ranks, 3);
  EXPECT_EQ(attempts_[1].world_size, 3);
}

TEST_F(SupervisorHosts, WithoutRoomForTheRanksOfALostHostTheJobIsRequeued) {
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
TEST_F(SupervisorHosts, AStartThatFailsAfterACrashBlamesTheHostOfTheCrash) {
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

TEST_F(SupervisorHosts, ASlowRankIsReplacedIfThatIsWanted) {
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
  const auto ledger = runtime::ReadLedger(directory_);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  ASSERT_TRUE(ledger->log.attempts[0].failure) << "but the attempt was ended for it";
  EXPECT_EQ(ledger->log.attempts[0].failure->kind, runtime::FailureKind::kStraggler);
  EXPECT_EQ(attempts_[1].spares, std::vector<std::string>{"spare"});
}

// The stages of two ranks are not those of the first two of four.
TEST_F(SupervisorHosts, RanksOfASmallerWorldAreComparedWithinItsStages) {
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

}  // namespace
}  // namespace muster::launch
