// Token files of Megatron-LM and llm.c, built here byte by byte from their description.
#include "runtime/input/foreign_formats.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

template <typename T>
void Put(std::string* bytes, T value) {
  bytes->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

struct MegatronPair {
  std::string idx, bin;
};

// Sequences of ids 0, 1, 2, ... of the given lengths.
template <typename Id>
MegatronPair MakeMegatron(uint8_t code, const std::vector<int32_t>& lengths) {
  MegatronPair pair;
  pair.idx.assign("MMIDIDX\0\0", 9);
  Put<uint64_t>(&pair.idx, 1);
  Put<uint8_t>(&pair.idx, code);
  Put<uint64_t>(&pair.idx, lengths.size());
  Put<uint64_t>(&pair.idx, lengths.size() + 1);
  for (const int32_t length : lengths) Put<int32_t>(&pair.idx, length);
  int64_t offset = 0, id = 0;
  for (const int32_t length : lengths) {
    Put<int64_t>(&pair.idx, offset);
    offset += length * static_cast<int64_t>(sizeof(Id));
    for (int32_t i = 0; i < length; ++i) Put<Id>(&pair.bin, static_cast<Id>(id++));
  }
  for (size_t document = 0; document <= lengths.size(); ++document) {
    Put<int64_t>(&pair.idx, static_cast<int64_t>(document));
  }
  return pair;
}

std::string WritePair(const ScratchDirectory& directory, const MegatronPair& pair) {
  directory.Write("d.idx", pair.idx);
  directory.Write("d.bin", pair.bin);
  return directory.File("d");
}

std::string MakeLlmc(int32_t magic, int32_t version, int32_t tokens, size_t token_bytes) {
  std::string bytes;
  Put<int32_t>(&bytes, magic);
  Put<int32_t>(&bytes, version);
  Put<int32_t>(&bytes, tokens);
  bytes.resize(1024);
  for (int32_t i = 0; i < tokens; ++i) {
    const uint32_t id = static_cast<uint32_t>(i);
    bytes.append(reinterpret_cast<const char*>(&id), token_bytes);
  }
  return bytes;
}

std::string Opened(const std::string& path) { return TokenSource::Open(path).status().ToString(); }

void ExpectRamp(const std::string& path, int64_t count, const std::string& element) {
  const auto source = TokenSource::Open(path);
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->num_tokens(), count);
  EXPECT_EQ((*source)->vocab_size(), 0);
  EXPECT_EQ((*source)->facts().element, element);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  ASSERT_TRUE((*source)->Read(0, count, 1000, tokens.data()).ok());
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(tokens[static_cast<size_t>(i)], i);
}

void ExpectContains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
}

TEST(Megatron, SequencesAreReadAsOneStream) {
  const ScratchDirectory directory;
  const std::vector<int32_t> lengths = {5, 0, 40, 55};
  ExpectRamp(WritePair(directory, MakeMegatron<uint16_t>(8, lengths)), 100, "uint16");
  ExpectRamp(WritePair(directory, MakeMegatron<int32_t>(4, lengths)), 100, "int32");
  ExpectRamp(WritePair(directory, MakeMegatron<int64_t>(5, lengths)), 100, "int64");
  ExpectRamp(WritePair(directory, MakeMegatron<int16_t>(3, lengths)), 100, "int16");
  ExpectRamp(WritePair(directory, MakeMegatron<uint8_t>(1, lengths)), 100, "uint8");
}

TEST(Megatron, PrefixAndBothNamesOpenThePair) {
  const ScratchDirectory directory;
  const std::string prefix = WritePair(directory, MakeMegatron<uint16_t>(8, {3, 4}));
  for (const std::string& path : {prefix, prefix + ".bin", prefix + ".idx"}) {
    ExpectRamp(path, 7, "uint16");
  }
}

TEST(Megatron, ModesOfMultimodalDataAreSkipped) {
  const ScratchDirectory directory;
  MegatronPair pair = MakeMegatron<uint16_t>(8, {3, 4});
  pair.idx += std::string(2, '\0');
  ExpectRamp(WritePair(directory, pair), 7, "uint16");
}

TEST(Megatron, NegativeAndLargeIdsAreNamed) {
  const ScratchDirectory directory;
  MegatronPair pair = MakeMegatron<int64_t>(5, {4});
  const int64_t huge = int64_t{1} << 32;  // its lower half alone would be a legal 0
  std::memcpy(pair.bin.data() + 16, &huge, 8);
  const auto source = TokenSource::Open(WritePair(directory, pair));
  ASSERT_TRUE(source.ok());
  int32_t out[4];
  ExpectContains((*source)->Read(0, 4, 1000, out).ToString(), "token 4294967296 at position 2");
  pair = MakeMegatron<int32_t>(4, {4});
  const int32_t negative = -7;
  std::memcpy(pair.bin.data() + 4, &negative, 4);
  const auto other = TokenSource::Open(WritePair(directory, pair));
  ASSERT_TRUE(other.ok());
  ExpectContains((*other)->Read(0, 4, 1000, out).ToString(), "token -7 at position 1");
}

TEST(Megatron, DamageIsFoundAndNamed) {
  const ScratchDirectory directory;
  const MegatronPair good = MakeMegatron<uint16_t>(8, {3, 4});
  const auto damaged = [&](size_t offset, uint64_t value, size_t bytes) {
    MegatronPair pair = good;
    std::memcpy(pair.idx.data() + offset, &value, bytes);
    return Opened(WritePair(directory, pair));
  };
  ExpectContains(damaged(9, 2, 8), "version 1, found 2");
  ExpectContains(damaged(17, 6, 1), "type code");
  ExpectContains(damaged(17, 2, 1), "type code");
  ExpectContains(damaged(18, 3, 8), "do not hold");
  ExpectContains(damaged(18, ~uint64_t{0}, 8), "do not hold");
  ExpectContains(damaged(18, (~uint64_t{0} / 12) + 1, 8), "do not hold");
  ExpectContains(damaged(34, 2, 4), "sequence 1 at byte 4");
  ExpectContains(damaged(34, 0xffffffffu, 4), "length -1");
  ExpectContains(damaged(38, 5, 4), "wanted 8 tokens of uint16");
  ExpectContains(damaged(50, 8, 8), "sequence 1 at byte 6");
  MegatronPair pair = good;
  pair.bin.pop_back();
  ExpectContains(Opened(WritePair(directory, pair)), "found 13 bytes");
  for (size_t size = 9; size < good.idx.size(); ++size) {
    pair = good;
    pair.idx.resize(size);
    EXPECT_NE(Opened(WritePair(directory, pair)), "OK") << size;
  }
}

TEST(Llmc, BothVersionsAreRead) {
  const ScratchDirectory directory;
  ExpectRamp(directory.Write("gpt2.bin", MakeLlmc(20240520, 1, 500, 2)), 500, "uint16");
  ExpectRamp(directory.Write("llama3.bin", MakeLlmc(20240801, 7, 500, 4)), 500, "uint32");
}

TEST(Llmc, DamageIsFoundAndNamed) {
  const ScratchDirectory directory;
  ExpectContains(Opened(directory.Write("v.bin", MakeLlmc(20240520, 2, 5, 2))),
                 "version 1 of llm.c's token files, found 2");
  ExpectContains(Opened(directory.Write("v.bin", MakeLlmc(20240801, 1, 5, 4))), "version 7");
  ExpectContains(Opened(directory.Write("v.bin", MakeLlmc(20240520, 1, -5, 2))), "-5 tokens");
  ExpectContains(Opened(directory.Write("v.bin", MakeLlmc(20240520, 1, 5, 2) + "x")),
                 "11 bytes follow");
  ExpectContains(Opened(directory.Write("v.bin", MakeLlmc(20240520, 1, 5, 2).substr(0, 1000))),
                 "header of 1024 bytes, found 1000");
}

}  // namespace
}  // namespace muster::runtime
