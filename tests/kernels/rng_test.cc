#include "kernels/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace muster::kernels {
namespace {

std::vector<uint32_t> Words(const PhiloxBlock& block) {
  return {block.v[0], block.v[1], block.v[2], block.v[3]};
}

// Known answers published with the algorithm (Random123, philox4x32-10).
TEST(Philox, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(Words(Philox({0, 0}, 0, 0)),
            (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Words(Philox({~0u, ~0u}, ~0ull, ~0ull)),
            (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Words(Philox({0xa4093822, 0x299f31d0}, 0x85a308d3243f6a88ull, 0x0370734413198a2eull)),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(MakePhiloxKey, DependsOnSeedAndName) {
  const auto key = [](uint64_t seed, const char* name) {
    const PhiloxKey k = MakePhiloxKey(seed, name);
    return (uint64_t{k.hi} << 32) | k.lo;
  };
  EXPECT_EQ(key(1, "a"), key(1, "a"));
  EXPECT_NE(key(1, "a"), key(2, "a"));
  EXPECT_NE(key(1, "a"), key(1, "b"));
}

TEST(UniformFromBits, CoversTheHalfOpenUnitInterval) {
  EXPECT_EQ(UniformFromBits(0), 0.0f);
  EXPECT_EQ(UniformFromBits(0x80000000u), 0.5f);
  EXPECT_EQ(UniformFromBits(~0u), 1.0f - std::ldexp(1.0f, -24));
}

TEST(NormalFromBlock, HasMeanZeroAndVarianceOne) {
  constexpr int kSamples = 1'000'000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double x = NormalFromBlock(Philox({1, 2}, static_cast<uint64_t>(i)));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  // Five standard errors: 1, sqrt(1.85) and about sqrt(90) over a thousand.
  EXPECT_NEAR(sum / kSamples, 0, 5e-3);
  EXPECT_NEAR(squares / kSamples, 1, 7e-3);
  EXPECT_NEAR(fourth / kSamples, 2.85, 5e-2);
}

TEST(NormalFromBlock, IsSymmetricAndBounded) {
  EXPECT_EQ(NormalFromBlock({{~0u, ~0u, ~0u, ~0u}}), -NormalFromBlock({{0, 0, 0, 0}}));
  EXPECT_NEAR(NormalFromBlock({{~0u, ~0u, ~0u, ~0u}}), 4.9f, 0.01f);
  EXPECT_EQ(NormalFromBlock({{~0u, ~0u, 0, 0}}), 0.0f);
}

TEST(PermuteIndex, IsABijection) {
  for (uint64_t n : {1, 2, 3, 4, 5, 7, 16, 17, 64, 65, 1000, 4097}) {
    std::vector<bool> seen(n, false);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t image = PermuteIndex({3, 4}, i, n);
      ASSERT_LT(image, n);
      EXPECT_FALSE(seen[image]) << image << " twice, n = " << n;
      seen[image] = true;
    }
  }
}

TEST(PermuteIndex, StaysInALargeRange) {
  const uint64_t n = (1ull << 40) + 12345;
  for (uint64_t i = 0; i < 100; ++i) EXPECT_LT(PermuteIndex({3, 4}, n - 1 - i, n), n);
}

TEST(PermuteIndex, ShufflesDifferentlyForEachKey) {
  constexpr uint64_t kSize = 1000;
  int fixed = 0, neighbours = 0, equal = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    const uint64_t image = PermuteIndex({3, 4}, i, kSize);
    fixed += image == i;
    neighbours += i > 0 && image == PermuteIndex({3, 4}, i - 1, kSize) + 1;
    equal += image == PermuteIndex({5, 4}, i, kSize);
  }
  // A random permutation has one of each on average; 12 or more happen once in 10^9.
  EXPECT_LT(fixed, 12);
  EXPECT_LT(neighbours, 12);
  EXPECT_LT(equal, 12);
}

}  // namespace
}  // namespace muster::kernels
