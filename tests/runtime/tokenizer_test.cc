// The tokenizer: learnt deterministically, lossless, and in one process with protobuf.
#include "runtime/input/tokenizer.h"

#include <gtest/gtest.h>

#include <sstream>

#include "google/protobuf/text_format.h"
#include "runtime/job/job.pb.h"
#include "tests/support/runtime/generated_text.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

absl::StatusOr<std::string> Train(const std::string& text, int vocab_size) {
  std::istringstream lines(text);
  TokenizerTraining training;
  training.vocab_size = vocab_size;
  training.next_line = [&lines](std::string* line) {
    return static_cast<bool>(std::getline(lines, *line));
  };
  return TrainTokenizer(training);
}

std::unique_ptr<Tokenizer> Trained(int vocab_size) {
  auto model = Train(GeneratedText(60000, 1), vocab_size);
  EXPECT_TRUE(model.ok()) << model.status();
  auto tokenizer = Tokenizer::Parse(*model, "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(Tokenizer, DecodeInvertsEncodeForAnyUtf8) {
  const auto tokenizer = Trained(400);
  EXPECT_EQ(tokenizer->vocab_size(), 400);
  for (const std::string& text : std::vector<std::string>{
           "", " ", "the cat", "  two  spaces  ", "line\nline\n\n\tend\r\n", "a\nb ",
           "Größe, 数字 и émoji 🙂", "0123456789", std::string("nul\0inside", 10),
           "<s></s><unk>", "<0x41>", GeneratedText(5000, 9)}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    const auto back = tokenizer->Decode(*ids);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, text);
    for (const int id : *ids) {
      EXPECT_GE(id, 0);
      EXPECT_LT(id, 400);
    }
  }
}

TEST(Tokenizer, LearntPiecesShortenText) {
  const auto tokenizer = Trained(600);
  const std::string text = GeneratedText(20000, 2);
  const auto ids = tokenizer->Encode(text);
  ASSERT_TRUE(ids.ok());
  EXPECT_LT(ids->size() * 2, text.size());
}

TEST(Tokenizer, SameTextGivesTheSameModel) {
  const auto first = Train(GeneratedText(60000, 1), 400),
             again = Train(GeneratedText(60000, 1), 400);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_EQ(*first, *again);
  EXPECT_NE(*first, *Train(GeneratedText(60000, 2), 400));
}

TEST(Tokenizer, FileRoundTrip) {
  const ScratchDirectory directory;
  const auto model = Train(GeneratedText(60000, 1), 400);
  ASSERT_TRUE(model.ok());
  const auto tokenizer = Tokenizer::Load(directory.Write("t.model", *model));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 400);
  EXPECT_EQ((*tokenizer)->end_of_text(), 2);
}

TEST(Tokenizer, BadIdsAreNamed) {
  const auto tokenizer = Trained(400);
  for (const int id : {-1, 400, 1 << 30}) {
    const std::string error = tokenizer->Decode({1, id}).status().ToString();
    EXPECT_NE(error.find("0 to 399"), std::string::npos) << error;
    EXPECT_NE(error.find("at position 1"), std::string::npos) << error;
  }
}

TEST(Tokenizer, ImpossibleVocabulariesAreExplained) {
  const std::string large = Train(GeneratedText(3000, 1), 20000).status().ToString();
  EXPECT_NE(large.find("20000 tokens is too large"), std::string::npos) << large;
  EXPECT_NE(large.find("the largest it supports is"), std::string::npos) << large;
  const std::string small = Train(GeneratedText(3000, 1), 260).status().ToString();
  EXPECT_NE(small.find("260 tokens is too small"), std::string::npos) << small;
  for (const int vocab_size : {-5, 0, 1}) {
    EXPECT_FALSE(Train(GeneratedText(3000, 1), vocab_size).ok()) << vocab_size;
  }
  EXPECT_NE(Train("", 300).status().ToString().find("needs text"), std::string::npos);
}

TEST(Tokenizer, OtherFilesAreRefused) {
  const ScratchDirectory directory;
  EXPECT_EQ(Tokenizer::Load(directory.File("none")).status().code(), absl::StatusCode::kNotFound);
  const auto model = Train(GeneratedText(60000, 1), 400);
  ASSERT_TRUE(model.ok());
  for (const std::string& bytes :
       {std::string(), std::string("Call me Ishmael."), std::string(1000, '\xff'),
        model->substr(0, model->size() / 2)}) {
    const auto tokenizer = Tokenizer::Load(directory.Write("bad.model", bytes));
    EXPECT_FALSE(tokenizer.ok()) << bytes.size();
    EXPECT_NE(tokenizer.status().ToString().find("SentencePiece model"), std::string::npos);
  }
}

// SentencePiece brings an old protobuf along; neither may touch the other's.
TEST(Tokenizer, LivesBesideProtobuf) {
  const auto before = Trained(400);
  Job job, parsed;
  job.set_name("x");
  job.mutable_data()->add_train_files("a file name that is long enough to be on the heap");
  std::string text;
  ASSERT_TRUE(google::protobuf::TextFormat::PrintToString(job, &text));
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &parsed));
  EXPECT_EQ(parsed.data().train_files(0), job.data().train_files(0));
  const auto after = Trained(400);
  EXPECT_EQ(*before->Encode("the same text"), *after->Encode("the same text"));
}

}  // namespace
}  // namespace muster::runtime
