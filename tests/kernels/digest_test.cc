#include "kernels/ops/digest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "kernels/base/word_digest.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/range_tables.h"

namespace muster::kernels {
namespace {

TEST(WordDigest, SeesEveryBit) {
  std::string text(100, 'x');
  const auto of_text = [&] { return WordDigest(text.data(), static_cast<int64_t>(text.size())); };
  std::set<uint64_t> digests = {of_text()};
  for (char& c : text) {
    for (int bit = 0; bit < 8; ++bit) {
      c = static_cast<char>(c ^ (1 << bit));
      digests.insert(of_text());
      c = static_cast<char>(c ^ (1 << bit));
    }
  }
  EXPECT_EQ(digests.size(), 801u);
}

TEST(WordDigest, SeesWordsThatChangePlacesAndBlocksThatAreLost) {
  uint64_t words[64];
  for (uint64_t i = 0; i < 64; ++i) words[i] = 0x3f8000003f800000ull + i % 8;
  const auto of_words = [&] { return WordDigest(words, sizeof(words)); };
  std::set<uint64_t> digests = {of_words()};
  for (int i = 0; i < 63; ++i) {
    if (words[i] == words[i + 1]) continue;
    std::swap(words[i], words[i + 1]);
    digests.insert(of_words());
    std::swap(words[i], words[i + 1]);
  }
  for (int i = 0; i < 64; i += 8) {
    uint64_t kept[8];
    std::memcpy(kept, words + i, sizeof(kept));
    std::memset(words + i, 0, sizeof(kept));
    digests.insert(of_words());
    std::memcpy(words + i, kept, sizeof(kept));
  }
  EXPECT_EQ(digests.size(), 1u + 63u + 8u);
}

// The same bit in two words, where their changes could cancel: the signs of two weights, say.
TEST(WordDigest, SeesPairsOfFlips) {
  std::vector<uint32_t> words(256);
  for (size_t i = 0; i < words.size(); ++i) words[i] = 0x3f800000u + static_cast<uint32_t>(i);
  const auto of_words = [&] { return WordDigest(words.data(), 1024); };
  const uint64_t before = of_words();
  for (const uint32_t bit : {0x80000000u, 0x40000000u, 0x8000u, 1u}) {
    for (size_t i = 0; i < words.size(); ++i) {
      for (size_t j = i + 1; j < words.size(); ++j) {
        words[i] ^= bit;
        words[j] ^= bit;
        EXPECT_NE(of_words(), before) << i << " and " << j << ", bit " << bit;
        words[i] ^= bit;
        words[j] ^= bit;
      }
    }
  }
}

TEST(WordDigest, OfPartsAndOfElementsAddUp) {
  std::string bytes(1003, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 37);
  const uint64_t whole = WordDigest(bytes.data(), 1003);
  EXPECT_EQ(WordDigest(bytes.data(), 496) + WordDigest(bytes.data() + 496, 507, 62), whole);
  uint64_t of_twos = 0, of_fours = 0;
  for (uint64_t i = 0; i < 501; ++i) {
    uint16_t two;
    std::memcpy(&two, bytes.data() + 2 * i, sizeof(two));
    of_twos += DigestTerm(i, two);
  }
  for (uint64_t i = 0; i < 250; ++i) {
    uint32_t four;
    std::memcpy(&four, bytes.data() + 4 * i, sizeof(four));
    of_fours += DigestTerm(i, four);
  }
  EXPECT_EQ(of_twos, WordDigest(bytes.data(), 1002));
  EXPECT_EQ(of_fours, WordDigest(bytes.data(), 1000));
}

// Digests of x in ranges, added to `out`.
void AddDigests(const TensorView& x, const std::vector<DigestRange>& ranges,
                const TensorView& out) {
  const auto stream = Stream::Create({}, StreamMode::kInline, "test");
  MUSTER_CHECK_OK(stream.status());
  const OwnedTable<DigestRange> owned(ranges, stream->view());
  Digest({.x = x, .table = owned.table, .out = out}, stream->view());
}

class DigestOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, DigestOf, StorageDTypes(), DTypeName);

TEST_P(DigestOf, EqualBitsHaveEqualDigestsWhereverTheyLie) {
  const Tensor x = RandomTensor(GetParam(), {9000}, "x");
  const int64_t size = SizeOf(GetParam());
  char* bytes = static_cast<char*>(x.view().data);
  std::memcpy(bytes + 4301 * size, bytes, static_cast<size_t>(4299 * size));
  const Tensor out = MakeTensor(DType::kInt64, {4});
  AddDigests(x.view(), {{0, 4299}, {4301, 4299}, {1, 4299}, {7, 0}}, out.view());
  const auto* found = out.view().as<int64_t>();
  EXPECT_EQ(found[0], found[1]);
  EXPECT_NE(found[0], found[2]);
  EXPECT_EQ(found[3], 0);
  EXPECT_EQ(static_cast<uint64_t>(found[0]), WordDigest(bytes, 4299 * size));
  const int64_t once = found[0];
  AddDigests(x.view(), {{0, 4299}, {4301, 4299}, {1, 4299}, {7, 0}}, out.view());
  EXPECT_EQ(static_cast<uint64_t>(found[0]), 2 * static_cast<uint64_t>(once));
}

TEST_P(DigestOf, AFlippedBitShowsInItsRangeAlone) {
  const Tensor x = RandomTensor(GetParam(), {9000}, "x");
  const std::vector<DigestRange> ranges = {{0, 3000}, {3000, 3001}, {6001, 2999}};
  const Tensor before = MakeTensor(DType::kInt64, {3});
  AddDigests(x.view(), ranges, before.view());
  for (const int64_t element : {3000, 4096, 6000}) {
    char& byte = static_cast<char*>(x.view().data)[element * SizeOf(GetParam())];
    byte = static_cast<char>(byte ^ 4);
    const Tensor after = MakeTensor(DType::kInt64, {3});
    AddDigests(x.view(), ranges, after.view());
    byte = static_cast<char>(byte ^ 4);
    for (int64_t r = 0; r < 3; ++r) {
      EXPECT_EQ(after.view().as<int64_t>()[r] != before.view().as<int64_t>()[r], r == 1) << r;
    }
  }
}

}  // namespace
}  // namespace muster::kernels
