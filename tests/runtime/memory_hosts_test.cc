// Who keeps whose copies: always another host's rank, evenly, and as few as can be.
#include "runtime/checkpoint/memory_hosts.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace muster::runtime {
namespace {

std::vector<std::string> Blocks(const std::vector<int>& sizes) {
  std::vector<std::string> names;
  for (size_t host = 0; host < sizes.size(); ++host) {
    names.insert(names.end(), static_cast<size_t>(sizes[host]), "node" + std::to_string(host));
  }
  return names;
}

TEST(MemoryHosts, AreKnownByTheirRanks) {
  const HostMap map = MapHosts({"b", "a", "b", "c", "a"});
  EXPECT_EQ(map.names, (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(map.host_of, (std::vector<int>{0, 1, 0, 2, 1}));
  EXPECT_EQ(map.ranks, (std::vector<std::vector<int>>{{0, 2}, {1, 4}, {3}}));
  EXPECT_EQ(map.leader(1), 1);
}

TEST(MemoryHosts, OneHostKeepsNoSecondCopies) {
  EXPECT_EQ(KeepersOf(MapHosts({"a", "a", "a"})), (std::vector<int>{-1, -1, -1}));
  EXPECT_EQ(KeepersOf(MapHosts({"a"})), (std::vector<int>{-1}));
}

TEST(MemoryHosts, KeepersAreOnAnotherHostAndShareTheWork) {
  const std::vector<std::vector<std::string>> worlds = {
      Blocks({1, 1}),    Blocks({8, 8, 8}),         Blocks({4, 4, 2}), Blocks({1, 7}),
      Blocks({3, 2, 5}), {"a", "b", "a", "b", "c"}, Blocks({2, 2})};
  for (const std::vector<std::string>& names : worlds) {
    const HostMap map = MapHosts(names);
    const std::vector<int> keepers = KeepersOf(map);
    ASSERT_EQ(keepers.size(), names.size());
    size_t kept = 0;
    for (int rank = 0; rank < static_cast<int>(names.size()); ++rank) {
      const int keeper = keepers[static_cast<size_t>(rank)];
      ASSERT_GE(keeper, 0);
      EXPECT_NE(names[static_cast<size_t>(keeper)], names[static_cast<size_t>(rank)]);
      for (const int ward : WardsOf(keepers, rank)) {
        EXPECT_EQ(keepers[static_cast<size_t>(ward)], rank);
        ++kept;
      }
    }
    EXPECT_EQ(kept, names.size());  // each copy is kept once
    for (const std::vector<int>& ranks : map.ranks) {
      std::vector<size_t> loads;
      for (const int rank : ranks) loads.push_back(WardsOf(keepers, rank).size());
      const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
      EXPECT_LE(*most - *least, 1u);
    }
  }
}

// Any one host may go, and of two that are not neighbours both.
TEST(MemoryHosts, EveryShardSurvivesAnyLostHost) {
  const HostMap map = MapHosts(Blocks({2, 3, 2, 1}));
  const std::vector<int> keepers = KeepersOf(map);
  for (int lost = 0; lost < map.num_hosts(); ++lost) {
    for (size_t rank = 0; rank < keepers.size(); ++rank) {
      EXPECT_TRUE(map.host_of[rank] != lost ||
                  map.host_of[static_cast<size_t>(keepers[rank])] != lost);
    }
  }
}

}  // namespace
}  // namespace muster::runtime
