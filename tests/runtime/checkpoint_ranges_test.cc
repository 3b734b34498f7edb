// Ranges of logical tensors: the runs of a slice are exactly its elements.
#include <gtest/gtest.h>

#include "runtime/checkpoint/ranges.h"

namespace muster::runtime {
namespace {

using kernels::Shape;

// Global indices of the elements of the slice, row-major, the slow way.
std::vector<int64_t> ElementsOf(const LogicalRange& range) {
  std::vector<int64_t> elements;
  const Shape& s = range.global_shape;
  for (int64_t g = 0; g < s.num_elements(); ++g) {
    bool inside = true;
    int64_t rest = g;
    for (int dim = s.rank() - 1; dim >= 0; --dim) {
      const int64_t at = rest % s[dim];
      rest /= s[dim];
      inside &= at >= range.slice_begin[dim] && at < range.slice_begin[dim] + range.slice_size[dim];
    }
    if (inside) elements.push_back(g);
  }
  return {elements.begin() + range.first, elements.begin() + range.first + range.count};
}

TEST(CheckpointRanges, RunsAreTheElementsOfTheSlice) {
  const Shape shape{4, 3, 5};
  int64_t cases = 0;
  for (const Shape& begin : {Shape{0, 0, 0}, Shape{1, 0, 0}, Shape{1, 1, 0}, Shape{2, 0, 3}}) {
    for (const Shape& size : {Shape{4, 3, 5}, Shape{2, 3, 5}, Shape{3, 2, 5}, Shape{2, 3, 2}}) {
      LogicalRange range{shape, begin, size, 0, 0};
      if (!range.Problem().empty()) continue;
      for (range.first = 0; range.first < size.num_elements(); ++range.first) {
        for (range.count = 0; range.first + range.count <= size.num_elements(); ++range.count) {
          std::vector<int64_t> found;
          for (const ElementRun& run : RunsOf(range)) {
            ASSERT_EQ(run.local, static_cast<int64_t>(found.size()));
            for (int64_t i = 0; i < run.count; ++i) found.push_back(run.global + i);
          }
          ASSERT_EQ(found, ElementsOf(range)) << begin.ToString() << size.ToString();
          ++cases;
        }
      }
    }
  }
  EXPECT_GT(cases, 4000);
}

TEST(CheckpointRanges, SlicesOfRowsAreOneRun) {
  const std::vector<ElementRun> runs = RunsOf({{8, 6}, {2, 0}, {4, 6}, 5, 17});
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].global, 2 * 6 + 5);
  EXPECT_EQ(runs[0].count, 17);
}

TEST(CheckpointRanges, OfNothingThereAreNoRunsHoweverLargeTheOtherDims) {
  const int64_t large = int64_t{1} << 56;
  EXPECT_TRUE(RunsOf(LogicalRange::Whole({0, large, large})).empty());
}

TEST(CheckpointRanges, OutsideIsAProblem) {
  EXPECT_EQ(LogicalRange::Whole({3, 4}).Problem(), "");
  EXPECT_EQ(LogicalRange::Whole({}).Problem(), "");
  EXPECT_EQ(RunsOf(LogicalRange::Whole({})).size(), 1u);
  EXPECT_NE((LogicalRange{{3}, {1}, {3}, 0, 1}).Problem(), "");
  EXPECT_NE((LogicalRange{{3}, {0}, {3}, 1, 3}).Problem(), "");
  EXPECT_NE((LogicalRange{{3}, {-1}, {3}, 0, 1}).Problem(), "");
  EXPECT_NE((LogicalRange{{3}, {0, 0}, {3, 1}, 0, 1}).Problem(), "");
  EXPECT_NE((LogicalRange{{3}, {0}, {3}, 0, -1}).Problem(), "");
}

}  // namespace
}  // namespace muster::runtime
