#include "runtime/job/nearest_name.h"

#include <gtest/gtest.h>

namespace muster::runtime {
namespace {

TEST(EditDistance, CountsSingleEdits) {
  EXPECT_EQ(EditDistance("check", "check"), 0);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("abc", ""), 3);
  EXPECT_EQ(EditDistance("chek", "check"), 1);
  EXPECT_EQ(EditDistance("chexck", "check"), 1);
  EXPECT_EQ(EditDistance("chack", "check"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(EditDistance, CountsASwapOfNeighboursOnce) {
  EXPECT_EQ(EditDistance("cehck", "check"), 1);
  EXPECT_EQ(EditDistance("ab", "ba"), 1);
}

TEST(EditDistance, IgnoresCase) { EXPECT_EQ(EditDistance("CHECK", "check"), 0); }

TEST(EditDistance, IsSymmetric) {
  for (const char* a : {"", "a", "mesh", "train", "microbatches"}) {
    for (const char* b : {"", "b", "mash", "trian", "micro_batches"}) {
      EXPECT_EQ(EditDistance(a, b), EditDistance(b, a)) << a << " " << b;
    }
  }
}

TEST(NearestName, FindsTheNearest) {
  const std::vector<std::string> names = {"train", "check", "data", "sample", "report", "doctor"};
  EXPECT_EQ(NearestName("trian", names), "train");
  EXPECT_EQ(NearestName("samples", names), "sample");
  EXPECT_EQ(NearestName("doctro", names), "doctor");
}

TEST(NearestName, SaysNothingWhenAllAreFar) {
  EXPECT_EQ(NearestName("zzzzz", {"train", "check"}), "");
  EXPECT_EQ(NearestName("x", {"dp", "tp"}), "");
  EXPECT_EQ(DidYouMean("zzzzz", {"train"}), "");
  EXPECT_EQ(DidYouMean("trian", {"train"}), " (did you mean 'train'?)");
}

}  // namespace
}  // namespace muster::runtime
