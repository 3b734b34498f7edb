// Lists of hosts, where ranks are placed, and how they are started there.
#include "launch/hosts.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch/host_start.h"
#include "launch/process_space.h"

namespace muster::launch {
namespace {

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
