// Muster token files: what is written is read, and every kind of damage is found and named.
#include "runtime/input/token_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <numeric>

#include "kernels/base/hash.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

std::vector<int32_t> Ramp(int64_t count, int vocab_size) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    tokens[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % vocab_size);
  }
  return tokens;
}

void WriteTokens(const std::string& path, const std::vector<int32_t>& tokens, int vocab_size,
                 const std::string& provenance = "a test") {
  auto writer = TokenFileWriter::Create(path, vocab_size, provenance);
  ASSERT_TRUE(writer.ok()) << writer.status();
  // In uneven pieces, so that pieces and buffers do not coincide.
  for (size_t begin = 0; begin < tokens.size(); begin += 999) {
    const size_t count = std::min<size_t>(999, tokens.size() - begin);
    ASSERT_TRUE((*writer)->Append(tokens.data() + begin, static_cast<int64_t>(count)).ok());
  }
  const absl::Status status = (*writer)->Commit();
  ASSERT_TRUE(status.ok()) << status;
}

// The status of opening, as text; "OK" if it opens.
std::string Opened(const std::string& path, HashCheck check = HashCheck::kVerify) {
  return TokenSource::Open(path, check).status().ToString();
}

void ExpectContains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
  }
}

TEST(TokenFile, ReadsWhatWasWritten) {
  const ScratchDirectory directory;
  for (const int vocab_size : {2, 256, 65536, 65537, 200000}) {
    for (const int64_t count : {0, 1, 5000, 700001}) {
      const std::string path = directory.File("t.tokens");
      const std::vector<int32_t> tokens = Ramp(count, vocab_size);
      WriteTokens(path, tokens, vocab_size);
      const auto source = TokenSource::Open(path);
      ASSERT_TRUE(source.ok()) << source.status();
      EXPECT_EQ((*source)->num_tokens(), count);
      EXPECT_EQ((*source)->vocab_size(), vocab_size);
      EXPECT_EQ((*source)->facts().provenance, "a test");
      EXPECT_EQ((*source)->facts().element, vocab_size <= 65536 ? "uint16" : "uint32");
      std::vector<int32_t> read(tokens.size());
      ASSERT_TRUE((*source)->Read(0, count, vocab_size, read.data()).ok());
      EXPECT_EQ(read, tokens);
    }
  }
}

TEST(TokenFile, PayloadHashIsThatOfTheBytes) {
  const ScratchDirectory directory;
  const std::vector<int32_t> tokens = Ramp(3000, 100000);
  WriteTokens(directory.File("t"), tokens, 100000);
  const auto source = TokenSource::Open(directory.File("t"));
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->facts().payload_hash, kernels::Hash64(tokens.data(), tokens.size() * 4));
}

TEST(TokenFile, LongProvenanceIsCut) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(10, 4), 4, std::string(10000, 'p'));
  const auto source = TokenSource::Open(directory.File("t"));
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->facts().provenance, std::string(4044, 'p'));
}

TEST(TokenFile, ReadOutsideTheFileIsRefused) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(10, 4), 4);
  const auto source = TokenSource::Open(directory.File("t"));
  ASSERT_TRUE(source.ok());
  int32_t out[16];
  EXPECT_TRUE((*source)->Read(0, 10, 4, out).ok());
  EXPECT_TRUE((*source)->Read(10, 0, 4, out).ok());
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 11}, {10, 1}, {11, 0}, {-1, 1}, {5, -1}, {INT64_MAX, 1}, {1, INT64_MAX}}) {
    EXPECT_EQ((*source)->Read(begin, count, 4, out).code(), absl::StatusCode::kOutOfRange)
        << begin << " " << count;
  }
}

TEST(TokenFile, TokenBeyondTheModelsVocabularyIsNamedWithItsPosition) {
  const ScratchDirectory directory;
  std::vector<int32_t> tokens(1000, 3);
  tokens[777] = 900;
  WriteTokens(directory.File("t"), tokens, 1000);
  const auto source = TokenSource::Open(directory.File("t"));
  ASSERT_TRUE(source.ok());
  std::vector<int32_t> out(1000);
  EXPECT_TRUE((*source)->Read(700, 100, 901, out.data()).ok());
  const absl::Status status = (*source)->Read(700, 100, 900, out.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  ExpectContains(status.ToString(), {directory.File("t"), "token 900 at position 777", "0 to 899"});
}

TEST(TokenFile, WriterRefusesTokensOutsideTheVocabulary) {
  const ScratchDirectory directory;
  for (const int32_t token : {-1, 5, 1 << 30}) {
    auto writer = TokenFileWriter::Create(directory.File("t"), 5, "");
    ASSERT_TRUE(writer.ok());
    const int32_t tokens[] = {0, 4, token};
    const absl::Status status = (*writer)->Append(tokens, 3);
    ExpectContains(status.ToString(), {"at position 2", "0 to 4"});
  }
  EXPECT_FALSE(TokenFileWriter::Create(directory.File("t"), 0, "").ok());
  EXPECT_FALSE(TokenFileWriter::Create(directory.File("t"), int64_t{1} << 31, "").ok());
  EXPECT_EQ(directory.NumEntries(), 0);
}

TEST(TokenFile, NothingRemainsWithoutCommit) {
  const ScratchDirectory directory;
  {
    auto writer = TokenFileWriter::Create(directory.File("t"), 5, "");
    ASSERT_TRUE(writer.ok());
    const std::vector<int32_t> tokens(1 << 20, 1);
    ASSERT_TRUE((*writer)->Append(tokens.data(), 1 << 20).ok());
  }
  EXPECT_EQ(directory.NumEntries(), 0);
}

TEST(TokenFile, CommitReplacesTheOldFileWhole) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(1000, 7), 7);
  WriteTokens(directory.File("t"), Ramp(10, 5), 5);
  EXPECT_EQ(Opened(directory.File("t")), "OK");
  EXPECT_EQ(directory.NumEntries(), 1);
}

TEST(TokenFile, DirectoryThatIsNotThereIsNamed) {
  const auto writer = TokenFileWriter::Create("/nonexistent/t.tokens", 5, "");
  ExpectContains(writer.status().ToString(), {"/nonexistent/t.tokens", "No such file"});
}

TEST(TokenFile, EveryTruncationIsFound) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(50, 7), 7);
  const std::string whole = ReadWhole(directory.File("t"));
  ASSERT_EQ(whole.size(), 4096u + 100);
  for (size_t size = 0; size < whole.size(); size += size < 100 || size > 4000 ? 1 : 97) {
    directory.Write("cut", whole.substr(0, size));
    EXPECT_NE(Opened(directory.File("cut"), HashCheck::kSkip), "OK") << size;
  }
  directory.Write("cut", whole.substr(0, whole.size() - 2));
  ExpectContains(Opened(directory.File("cut")), {"50 tokens of 2 bytes", "98 bytes follow"});
  directory.Write("longer", whole + "x");
  ExpectContains(Opened(directory.File("longer")), {"101 bytes follow"});
}

TEST(TokenFile, EveryFlippedBitIsFound) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(50, 7), 7);
  const std::string whole = ReadWhole(directory.File("t"));
  for (size_t at = 0; at < whole.size(); at += at < 80 || at > 4080 ? 1 : 61) {
    for (int bit = 0; bit < 8; bit += 3) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      directory.Write("damaged", damaged);
      EXPECT_NE(Opened(directory.File("damaged")), "OK") << "byte " << at << " bit " << bit;
    }
  }
  std::string damaged = whole;
  damaged[4100] = static_cast<char>(damaged[4100] ^ 1);
  directory.Write("damaged", damaged);
  ExpectContains(Opened(directory.File("damaged")), {directory.File("damaged"), "payload hash"});
  EXPECT_EQ(Opened(directory.File("damaged"), HashCheck::kSkip), "OK") << "skipping is a choice";
}

// A header whose own hash is right may still say nonsense; nothing is believed unchecked.
TEST(TokenFile, ForgedHeadersAreRefused) {
  const ScratchDirectory directory;
  WriteTokens(directory.File("t"), Ramp(50, 7), 7);
  const std::string whole = ReadWhole(directory.File("t"));
  const auto forged = [&](size_t offset, uint64_t value, size_t bytes) {
    std::string file = whole;
    std::memcpy(file.data() + offset, &value, bytes);
    const uint64_t hash = kernels::Hash64(file.data(), 4088);
    std::memcpy(file.data() + 4088, &hash, 8);
    return Opened(directory.Write("forged", file));
  };
  EXPECT_EQ(forged(16, 8, 8), "OK") << "the forger's method works";
  ExpectContains(forged(8, 2, 4), {"version 1, found 2"});
  ExpectContains(forged(12, 3, 4), {"2 or 4 bytes per token, found 3"});
  ExpectContains(forged(12, 0, 4), {"found 0"});
  ExpectContains(forged(16, 0, 8), {"vocabulary"});
  ExpectContains(forged(16, uint64_t{1} << 31, 8), {"vocabulary"});
  ExpectContains(forged(24, 51, 8), {"51 tokens"});
  ExpectContains(forged(24, (uint64_t{1} << 63) + 50, 8), {"tokens of 2 bytes"});
  ExpectContains(forged(40, 4045, 4), {"provenance"});
}

TEST(TokenFile, OtherFilesAreNotTakenForTokens) {
  const ScratchDirectory directory;
  ExpectContains(Opened(directory.File("none")), {"No such file"});
  ExpectContains(Opened(directory.path()), {"regular file"});
  ExpectContains(Opened(directory.Write("empty", "")), {"an empty file"});
  ExpectContains(Opened(directory.Write("text", "Call me Ishmael.")), {"magic numbers"});
}

}  // namespace
}  // namespace muster::runtime
