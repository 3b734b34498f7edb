#include "kernels/base/hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace muster::kernels {
namespace {

TEST(Hash64, GivesThePublishedValueOfNoBytes) {
  EXPECT_EQ(HexDigits(Hash64("")), "2d06800538d394c2");  // XXH3, 64 bits, seed 0
}

TEST(Hash64, SeesEveryBit) {
  std::string text(100, 'x');
  std::set<uint64_t> hashes = {Hash64(text)};
  for (char& c : text) {
    for (int bit = 0; bit < 8; ++bit) {
      c = static_cast<char>(c ^ (1 << bit));
      hashes.insert(Hash64(text));
      c = static_cast<char>(c ^ (1 << bit));
    }
  }
  EXPECT_EQ(hashes.size(), 801u);
}

TEST(Hash64, DependsOnTheSeedAndTheLength) {
  EXPECT_NE(Hash64("abc", 3, 0), Hash64("abc", 3, 1));
  EXPECT_NE(Hash64("abc", 3, 0), Hash64("abc", 2, 0));
  EXPECT_EQ(Hash64("abc", 3, 0), Hash64(std::string_view("abc")));
}

TEST(HexDigits, AreSixteenWithLeadingZeros) {
  EXPECT_EQ(HexDigits(0), "0000000000000000");
  EXPECT_EQ(HexDigits(0xABCull), "0000000000000abc");
  EXPECT_EQ(HexDigits(~0ull), "ffffffffffffffff");
}

}  // namespace
}  // namespace muster::kernels
