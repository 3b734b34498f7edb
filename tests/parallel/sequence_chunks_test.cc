#include "parallel/cp/sequence_chunks.h"

#include <gtest/gtest.h>

namespace muster::parallel {
namespace {

TEST(SequenceChunks, OneRankHoldsAll) {
  EXPECT_EQ(ContextRuns(7, 1, 0), (std::vector<SequenceRun>{{0, 7}}));
}

TEST(SequenceChunks, RanksTakeFromBothEnds) {
  EXPECT_EQ(ContextRuns(16, 2, 0), (std::vector<SequenceRun>{{0, 4}, {12, 4}}));
  EXPECT_EQ(ContextRuns(16, 2, 1), (std::vector<SequenceRun>{{4, 4}, {8, 4}}));
}

// Every position once, rising on each rank, and equally many visible (query, key) pairs.
TEST(SequenceChunks, AreABalancedPartition) {
  for (int ranks = 1; ranks <= 6; ++ranks) {
    const int64_t length = 2 * ranks * 3;
    std::vector<int> holders(static_cast<size_t>(length));
    for (int rank = 0; rank < ranks; ++rank) {
      int64_t pairs = 0, last = -1;
      for (const SequenceRun& run : ContextRuns(length, ranks, rank)) {
        for (int64_t position = run.begin; position < run.begin + run.length; ++position) {
          ++holders[static_cast<size_t>(position)];
          EXPECT_GT(position, last);
          last = position;
          pairs += position + 1;
        }
      }
      EXPECT_EQ(pairs * ranks, length * (length + 1) / 2) << "rank " << rank << " of " << ranks;
    }
    for (int count : holders) EXPECT_EQ(count, 1);
  }
}

TEST(SequenceChunksDeathTest, LengthMustDivide) {
  EXPECT_DEATH(ContextRuns(10, 2, 0), "10 tokens in 4 chunks");
}

}  // namespace
}  // namespace muster::parallel
