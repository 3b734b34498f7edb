#include <gtest/gtest.h>

#include "launch/hosts.h"

namespace muster::launch {
namespace {

std::vector<int> RanksOf(const HostPool& pool, int num_ranks) {
  std::vector<int> ranks;
  for (const runtime::AttemptHost& host : pool.Allocated(num_ranks)) ranks.push_back(host.ranks);
  return ranks;
}

TEST(AllocatedHosts, AreThoseInUseAndTheSparesWithTheRanksThatFillThem) {
  const auto pool = HostPool::Make({{"a", 2}, {"b", 4}, {"c", 4}, {"d", 8}}, 1, 5);
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_EQ(RanksOf(*pool, 10), (std::vector<int>{2, 4, 4, 0}));
  EXPECT_EQ(RanksOf(*pool, 5), (std::vector<int>{2, 3, 0, 0}));  // a smaller world
  const std::vector<runtime::AttemptHost> hosts = pool->Allocated(5);
  EXPECT_EQ(hosts[1].name, "b");
  EXPECT_EQ(hosts[1].devices, 4);
  EXPECT_EQ(hosts[3].name, "d");
  EXPECT_EQ(hosts[3].devices, 8);
  EXPECT_TRUE(HostPool().Allocated(3).empty());
}

}  // namespace
}  // namespace muster::launch
