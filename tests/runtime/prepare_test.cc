// Text to a data set: deterministic, complete, and all or nothing.
#include "runtime/input/prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "runtime/input/inspect.h"
#include "runtime/input/sha256.h"
#include "runtime/input/text_blocks.h"
#include "runtime/input/token_file.h"
#include "runtime/input/tokenizer.h"
#include "runtime/input/utf8.h"
#include "tests/support/runtime/generated_text.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

PrepareOptions Options(const ScratchDirectory& directory, const std::vector<std::string>& texts) {
  PrepareOptions options;
  options.texts = texts;
  options.output_directory = directory.File("set");
  options.vocab_size = 400;
  return options;
}

// All text that a split's tokens stand for; documents are parted by their end-of-text ids.
std::vector<std::string> Documents(const std::string& set, const std::string& file) {
  const auto source = TokenSource::Open(set + "/" + file);
  const auto tokenizer = Tokenizer::Load(set + "/tokenizer.model");
  EXPECT_TRUE(source.ok() && tokenizer.ok()) << source.status() << tokenizer.status();
  std::vector<int32_t> tokens(static_cast<size_t>((*source)->num_tokens()));
  EXPECT_TRUE(
      (*source)->Read(0, (*source)->num_tokens(), (*tokenizer)->vocab_size(), tokens.data()).ok());
  std::vector<std::string> documents;
  std::vector<int> document;
  for (const int32_t token : tokens) {
    if (token != (*tokenizer)->end_of_text()) {
      document.push_back(token);
      continue;
    }
    documents.push_back((*tokenizer)->Decode(document).value());
    document.clear();
  }
  EXPECT_TRUE(document.empty()) << "the last document ends";
  return documents;
}

std::string FailureOf(const PrepareOptions& options) {
  return PrepareDataset(options).status().ToString();
}

void ExpectContains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
  }
}

std::multiset<std::string> LinesOf(const std::string& text) {
  std::istringstream stream(text);
  std::multiset<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.insert(line);
  return lines;
}

TEST(Prepare, SplitsHoldTheWholeTextOnce) {
  const ScratchDirectory directory;
  const std::string a = GeneratedText(90000, 1), b = GeneratedText(40000, 2);
  const auto summary = PrepareDataset(
      Options(directory, {directory.Write("a.txt", a), directory.Write("b.txt", b)}));
  ASSERT_TRUE(summary.ok()) << summary.status();
  std::string validation, train;
  for (const auto& text : Documents(directory.File("set"), "validation.tokens")) {
    EXPECT_TRUE((a + b).find(text) != std::string::npos);
    validation += text;
  }
  for (const auto& text : Documents(directory.File("set"), "train.tokens")) {
    EXPECT_TRUE(a.find(text) != std::string::npos || b.find(text) != std::string::npos)
        << "no document spans two files";
    train += text;
  }
  EXPECT_EQ(train.size() + validation.size(), a.size() + b.size());
  EXPECT_EQ(static_cast<size_t>(summary->train.text_bytes), train.size());
  EXPECT_NEAR(static_cast<double>(validation.size()) / static_cast<double>(a.size() + b.size()),
              0.05, 0.01);
  EXPECT_EQ(LinesOf(train + validation), LinesOf(a + b)) << "every line is whole in one of them";
}

TEST(Prepare, SameTextGivesTheSameBytes) {
  const ScratchDirectory directory;
  const std::string text = directory.Write("a.txt", GeneratedText(90000, 1));
  PrepareOptions options = Options(directory, {text});
  ASSERT_TRUE(PrepareDataset(options).ok());
  options.output_directory = directory.File("again");
  ASSERT_TRUE(PrepareDataset(options).ok());
  for (const std::string file :
       {"train.tokens", "validation.tokens", "tokenizer.model", "dataset.json"}) {
    EXPECT_EQ(ReadWhole(directory.File("set/" + file)), ReadWhole(directory.File("again/" + file)))
        << file;
    EXPECT_FALSE(ReadWhole(directory.File("set/" + file)).empty()) << file;
  }
}

TEST(Prepare, SummaryAgreesWithTheFiles) {
  const ScratchDirectory directory;
  const std::string text = GeneratedText(90000, 1);
  const auto summary = PrepareDataset(Options(directory, {directory.Write("a.txt", text)}));
  ASSERT_TRUE(summary.ok()) << summary.status();
  const auto json = nlohmann::json::parse(ReadWhole(directory.File("set/dataset.json")));
  EXPECT_EQ(json["sources"][0]["sha256"], Sha256(text));
  EXPECT_EQ(json["sources"][0]["bytes"], text.size());
  EXPECT_EQ(json["tokenizer"]["vocab_size"], 400);
  EXPECT_EQ(json["tokenizer"]["sha256"], Sha256(ReadWhole(directory.File("set/tokenizer.model"))));
  for (const std::string split : {"train", "validation"}) {
    const std::string file = directory.File("set/" + std::string(json[split]["file"]));
    const auto report = InspectTokens(file, directory.File("set/tokenizer.model"), 10);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(json[split]["tokens"], report->facts.num_tokens);
    EXPECT_EQ(json[split]["distinct_tokens"], report->distinct_tokens);
    EXPECT_EQ(json[split]["unigram_entropy_nats"], report->unigram_entropy_nats);
    EXPECT_GT(report->unigram_entropy_nats, 2);
    EXPECT_LT(report->unigram_entropy_nats, std::log(400));
    EXPECT_EQ(report->facts.vocab_size, 400);
    ExpectContains(report->facts.provenance, {Sha256(text), "a.txt"});
    ExpectContains(RenderText(*report), {"Muster token file", "400", "verified", "first text"});
  }
  EXPECT_LT(summary->train.tokens_per_byte(), 0.5);
  EXPECT_EQ(json["train"]["tokens_per_byte"], summary->train.tokens_per_byte());
}

TEST(Prepare, GivenTokenizerIsUsedAsItIs) {
  const ScratchDirectory directory;
  PrepareOptions options = Options(directory, {directory.Write("a.txt", GeneratedText(90000, 1))});
  ASSERT_TRUE(PrepareDataset(options).ok());
  options.tokenizer_file = directory.File("set/tokenizer.model");
  options.output_directory = directory.File("other");
  const auto summary = PrepareDataset(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->tokenizer_text_bytes, 0);
  EXPECT_EQ(ReadWhole(directory.File("other/tokenizer.model")),
            ReadWhole(directory.File("set/tokenizer.model")));
  EXPECT_EQ(ReadWhole(directory.File("other/train.tokens")),
            ReadWhole(directory.File("set/train.tokens")));
}

TEST(Prepare, TokenizerLearnsFromAtMostTheWantedText) {
  const ScratchDirectory directory;
  PrepareOptions options = Options(directory, {directory.Write("a.txt", GeneratedText(200000, 1))});
  options.tokenizer_text_bytes = 50000;
  const auto summary = PrepareDataset(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_LT(summary->tokenizer_text_bytes, 60000);
  EXPECT_GT(summary->tokenizer_text_bytes, 30000);
}

TEST(Prepare, ProgressRunsToTheEndOfEachPhase) {
  const ScratchDirectory directory;
  PrepareOptions options = Options(directory, {directory.Write("a.txt", GeneratedText(90000, 1))});
  std::map<std::string, int64_t> last;
  int64_t total = 0;
  options.progress = [&](const PrepareProgress& progress) {
    EXPECT_GE(progress.done_bytes, last[progress.phase]);
    EXPECT_LE(progress.done_bytes, progress.total_bytes);
    last[progress.phase] = progress.done_bytes;
    total = progress.total_bytes;
  };
  ASSERT_TRUE(PrepareDataset(options).ok());
  EXPECT_EQ(last.size(), 3u);
  EXPECT_EQ(last["reading"], total);
  EXPECT_EQ(last["encoding"], total);
}

TEST(Prepare, FailuresSayWhyAndLeaveNothing) {
  const ScratchDirectory directory;
  const std::string good = directory.Write("good.txt", GeneratedText(90000, 1));
  const std::string empty = directory.Write("empty.txt", "");
  const std::string small = directory.Write("small.txt", "one line\nand another\n");
  const std::string latin =
      directory.Write("latin.txt", GeneratedText(9000, 1) + "Gr\xF6\xDF" + "e\n");
  directory.Write("file", "x");
  const int64_t before = directory.NumEntries();
  PrepareOptions options = Options(directory, {});
  ExpectContains(FailureOf(options), {"text files"});
  options.texts = {good, directory.File("none.txt")};
  ExpectContains(FailureOf(options), {"none.txt", "No such file"});
  options.texts = {good, empty};
  ExpectContains(FailureOf(options), {"empty.txt", "empty file"});
  options.texts = {small};
  ExpectContains(FailureOf(options), {"too little text"});
  options.texts = {good, latin};
  ExpectContains(FailureOf(options), {"latin.txt", "UTF-8", "2 bytes", "first at position 90"});
  options.texts = {good};
  options.vocab_size = 1 << 20;
  ExpectContains(FailureOf(options), {"too large for this text; the largest it supports is"});
  options.vocab_size = 100;
  ExpectContains(FailureOf(options), {"too small for this text"});
  options.vocab_size = 400;
  options.tokenizer_file = good;
  ExpectContains(FailureOf(options), {"good.txt", "SentencePiece model"});
  options.tokenizer_file.clear();
  options.validation_every = 1;
  ExpectContains(FailureOf(options), {"validation_every"});
  options.validation_every = 20;
  options.output_directory = "/nonexistent/set";
  ExpectContains(FailureOf(options), {"/nonexistent/set", "No such file"});
  options.output_directory = directory.File("file");
  ExpectContains(FailureOf(options), {"new or empty directory"});
  options.output_directory = directory.path();
  ExpectContains(FailureOf(options), {"new or empty directory"});
  EXPECT_EQ(directory.NumEntries(), before);
  // The same options without a mistake work, into an empty directory too.
  std::filesystem::create_directory(directory.File("set"));
  options.output_directory = directory.File("set") + "/";
  EXPECT_EQ(FailureOf(options), "OK");
  EXPECT_EQ(directory.NumEntries(), before + 1);
}

TEST(Prepare, InvalidBytesAreReplacedAndCountedOnRequest) {
  const ScratchDirectory directory;
  std::string text = GeneratedText(90000, 1);
  text[100] = '\xFF';
  PrepareOptions options = Options(directory, {directory.Write("a.txt", text)});
  options.replace_invalid_utf8 = true;
  const auto summary = PrepareDataset(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->sources[0].invalid_bytes, 1);
  const std::string first = Documents(directory.File("set"), "train.tokens")[0];
  EXPECT_EQ(first.substr(100, 3), "\xEF\xBF\xBD");
}

TEST(Prepare, TextWithoutLineEndsIsCutBetweenCharacters) {
  const ScratchDirectory directory;
  std::string text;
  for (int i = 0; i < 20000; ++i) text += "größer ";
  PrepareOptions options = Options(directory, {directory.Write("a.txt", text)});
  options.vocab_size = 275;
  options.validation_every = 5;
  const auto summary = PrepareDataset(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  for (const std::string file : {"train.tokens", "validation.tokens"}) {
    for (const std::string& document : Documents(directory.File("set"), file)) {
      EXPECT_EQ(FindInvalidUtf8(document).count, 0);
    }
  }
}

TEST(TextBlocks, ConcatenateToTheText) {
  for (const int64_t bytes : {1, 10, 64, 1000}) {
    TextSplit split;
    split.block_bytes = bytes;
    const std::string text = GeneratedText(5000, 3) + "\n\nno line end";
    std::string_view rest = text;
    std::string joined;
    while (!rest.empty()) {
      const std::string_view block = TakeBlock(split, &rest);
      ASSERT_FALSE(block.empty());
      joined += block;
      std::string lines;
      for (std::string_view inner = block; !inner.empty();) lines += TakeLine(30, &inner);
      std::string wanted(block);
      std::erase(wanted, '\n');
      EXPECT_EQ(lines, wanted);
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(Utf8, AcceptsExactlyTheWellFormed) {
  for (const std::string good : {"a", "ö", "€", "🙂", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"}) {
    EXPECT_EQ(FindInvalidUtf8(good).count, 0) << good;
    EXPECT_EQ(Utf8CharacterBytes(good), static_cast<int>(good.size()));
    for (size_t size = 1; size < good.size(); ++size) {
      EXPECT_EQ(FindInvalidUtf8(good.substr(0, size)).count, static_cast<int64_t>(size));
    }
  }
  // Overlong, surrogate, beyond U+10FFFF, lone continuation.
  for (const std::string bad : {"\xC0\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                                "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\x80"}) {
    EXPECT_EQ(FindInvalidUtf8(bad).count, static_cast<int64_t>(bad.size()));
    EXPECT_EQ(FindInvalidUtf8("ab" + bad).first, 2);
    EXPECT_EQ(FindInvalidUtf8(ReplaceInvalidUtf8(bad)).count, 0);
  }
  EXPECT_EQ(Utf8Boundary("aöb", 2), 1u);
  EXPECT_EQ(Utf8Boundary("aöb", 3), 3u);
  EXPECT_EQ(Utf8Boundary("aöb", 9), 4u);
}

TEST(Sha256, KnownValues) {
  EXPECT_EQ(Sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Import, KeepsEveryTokenAndTakesTheVocabularyFromTheIds) {
  const ScratchDirectory directory;
  std::string llmc(1024, '\0');
  const int32_t header[] = {20240520, 1, 3000};
  std::memcpy(llmc.data(), header, sizeof(header));
  for (int i = 0; i < 3000; ++i) {
    const uint16_t id = static_cast<uint16_t>(i * 31 % 777);
    llmc.append(reinterpret_cast<const char*>(&id), 2);
  }
  ImportOptions options;
  options.source = directory.Write("x.bin", llmc);
  options.output = directory.File("x.tokens");
  const auto facts = ImportTokens(options);
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->num_tokens, 3000);
  EXPECT_EQ(facts->vocab_size, 777);
  const auto source = TokenSource::Open(options.output);
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<int32_t> tokens(3000);
  ASSERT_TRUE((*source)->Read(0, 3000, 777, tokens.data()).ok());
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(tokens[static_cast<size_t>(i)], i * 31 % 777);
  // A vocabulary that is too small is refused, and the old file stays.
  options.vocab_size = 700;
  ExpectContains(ImportTokens(options).status().ToString(), {"token 713 at position 23"});
  EXPECT_TRUE(TokenSource::Open(options.output).ok());
  EXPECT_EQ(directory.NumEntries(), 2);
}

TEST(Inspect, ForeignFilesAndWrongTokenizersAreExplained) {
  const ScratchDirectory directory;
  std::string llmc(1024, '\0');
  const int32_t header[] = {20240801, 7, 2};
  std::memcpy(llmc.data(), header, sizeof(header));
  const uint32_t ids[] = {5, 500};
  llmc.append(reinterpret_cast<const char*>(ids), 8);
  const std::string path = directory.Write("x.bin", llmc);
  const auto report = InspectTokens(path, "", 10);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->highest_id, 500);
  EXPECT_EQ(report->distinct_tokens, 2);
  EXPECT_NEAR(report->unigram_entropy_nats, std::log(2.0), 1e-12);
  ExpectContains(RenderText(*report), {"llm.c .bin, uint32", "not said by the format", "5 500"});
  PrepareOptions options = Options(directory, {directory.Write("a.txt", GeneratedText(90000, 1))});
  ASSERT_TRUE(PrepareDataset(options).ok());
  ExpectContains(InspectTokens(path, directory.File("set/tokenizer.model"), 10).status().ToString(),
                 {"ids up to 500", "400 tokens"});
}

}  // namespace
}  // namespace muster::runtime
