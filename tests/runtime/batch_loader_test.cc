// Batches are a function of (seed, step, rank): no layout, order of asking or restart changes them.
#include "runtime/input/batch_loader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "runtime/input/synthetic_tokens.h"
#include "runtime/input/token_file.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

constexpr int kVocabulary = 5000;
constexpr int64_t kLength = 8;

// Token files whose ids count up, so that a token tells where it comes from.
class BatchLoaderTest : public testing::Test {
 protected:
  BatchLoaderTest() {
    WriteRamp("a.tokens", 0, 1003);    // 125 windows and 2 tokens over
    WriteRamp("b.tokens", 1003, 5);    // none
    WriteRamp("c.tokens", 1008, 657);  // 82 windows, the last token is the last target
  }

  void WriteRamp(const std::string& name, int32_t first, int64_t count, int vocabulary = 5000) {
    auto writer = TokenFileWriter::Create(directory_.File(name), vocabulary, "");
    ASSERT_TRUE(writer.ok());
    for (int32_t i = 0; i < count; ++i) {
      const int32_t token = first + i;
      ASSERT_TRUE((*writer)->Append(&token, 1).ok());
    }
    ASSERT_TRUE((*writer)->Commit().ok());
  }

  ResolvedJob Job(int dp, int microbatches, int64_t batch, const std::string& data,
                  const std::string& more = "") {
    const std::string path = directory_.Write(
        "job.textproto",
        absl::StrCat("model { vocab_size: ", kVocabulary,
                     " hidden: 8 layers: 1 heads: 1 ffn_hidden: 8 max_positions: 64 }\n", "data {",
                     data, "} mesh { dp: ", dp, " }\n", "schedule { microbatches: ", microbatches,
                     " }\n", "train { global_batch_sequences: ", batch,
                     " sequence_length: ", kLength, " }\n", more));
    ResolvedJob job;
    std::vector<ConfigProblem> problems;
    EXPECT_TRUE(LoadJob(path, {}, dp, &job, &problems)) << Describe(problems, path);
    return job;
  }
  std::string Files() {
    return absl::StrCat("train_files: '", directory_.File("a.tokens"), "' train_files: '",
                        directory_.File("b.tokens"), "' train_files: '",
                        directory_.File("c.tokens"), "' validation_files: '",
                        directory_.File("a.tokens"), "'");
  }
  std::unique_ptr<BatchLoader> Open(const ResolvedJob& job, Split split = Split::kTrain) {
    auto loader = BatchLoader::Create(job, split);
    EXPECT_TRUE(loader.ok()) << loader.status();
    return loader.ok() ? *std::move(loader) : nullptr;
  }
  // The batches of all ranks of a step, one after another.
  HostBatch Global(const BatchLoader& loader, int64_t step, int dp) {
    HostBatch all, part;
    for (int rank = 0; rank < dp; ++rank) {
      const absl::Status status = loader.Load(step, rank, &part);
      EXPECT_TRUE(status.ok()) << status;
      all.tokens.insert(all.tokens.end(), part.tokens.begin(), part.tokens.end());
      all.targets.insert(all.targets.end(), part.targets.begin(), part.targets.end());
      all.positions.insert(all.positions.end(), part.positions.begin(), part.positions.end());
      all.global_valid_tokens = part.global_valid_tokens;
    }
    return all;
  }

  ScratchDirectory directory_;
};

TEST_F(BatchLoaderTest, LayoutDoesNotChangeTokens) {
  const auto alone = Open(Job(1, 1, 72, Files()));
  for (const int dp : {1, 2, 3, 4, 8}) {
    for (const int microbatches : {1, 3}) {
      const auto loader = Open(Job(dp, microbatches, 72, Files()));
      for (const int64_t step : {0, 1, 7, 50}) {
        const HostBatch wanted = Global(*alone, step, 1), found = Global(*loader, step, dp);
        EXPECT_EQ(found.tokens, wanted.tokens) << dp << " " << step;
        EXPECT_EQ(found.targets, wanted.targets);
        EXPECT_EQ(found.positions, wanted.positions);
        EXPECT_EQ(found.global_valid_tokens, 72 * kLength);
      }
    }
  }
}

TEST_F(BatchLoaderTest, TargetsAreTheNextTokensOfTheFile) {
  const auto loader = Open(Job(2, 1, 6, Files()));
  const HostBatch batch = Global(*loader, 3, 2);
  ASSERT_EQ(batch.tokens.size(), static_cast<size_t>(6 * kLength));
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    EXPECT_EQ(batch.targets[i], batch.tokens[i] + 1);
    EXPECT_EQ(batch.positions[i], static_cast<int32_t>(i % kLength));
    if (i % kLength != 0) {
      EXPECT_EQ(batch.tokens[i], batch.tokens[i - 1] + 1);
    }
  }
}

// Each context rank has its chunks of every sequence; put back in their places they are the batch.
TEST_F(BatchLoaderTest, ContextRanksHoldTheirChunksOfEverySequence) {
  const auto whole = Open(Job(2, 1, 6, Files()));
  for (const int cp : {2, 4}) {
    ResolvedJob job = Job(2, 1, 6, Files());
    job.mesh.cp = cp;
    for (const int data_rank : {0, 1}) {
      HostBatch wanted, part;
      ASSERT_TRUE(whole->Load(5, data_rank, &wanted).ok());
      std::vector<int32_t> tokens(wanted.tokens.size()), targets(wanted.tokens.size());
      for (int rank = 0; rank < cp; ++rank) {
        const auto loader = BatchLoader::Create(job, Split::kTrain, rank);
        ASSERT_TRUE(loader.ok()) << loader.status();
        ASSERT_TRUE((*loader)->Load(5, data_rank, &part).ok());
        EXPECT_EQ(part.global_valid_tokens, 6 * kLength);
        const int64_t length = kLength / cp;
        ASSERT_EQ(part.tokens.size(), static_cast<size_t>(3 * length));
        EXPECT_EQ(part.positions[0], rank * length / 2);
        for (size_t i = 0; i < part.tokens.size(); ++i) {
          const int64_t sequence = static_cast<int64_t>(i) / length;
          const auto place = static_cast<size_t>(sequence * kLength + part.positions[i]);
          tokens[place] = part.tokens[i];
          targets[place] = part.targets[i];
        }
      }
      EXPECT_EQ(tokens, wanted.tokens);
      EXPECT_EQ(targets, wanted.targets);
    }
  }
}

TEST_F(BatchLoaderTest, ContextRanksShareValidationWindows) {
  ResolvedJob job = Job(1, 2, 6, Files());
  job.mesh.cp = 2;
  const auto loader = BatchLoader::Create(job, Split::kValidation, 1);
  ASSERT_TRUE(loader.ok()) << loader.status();
  HostBatch batch;
  ASSERT_TRUE((*loader)->LoadValidation(0, 0, 2, &batch).ok());  // of 3 windows the last is none
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{2, 3, 4, 5, 10, 11, 12, 13, 0, 0, 0, 0}));
  EXPECT_EQ(batch.targets,
            (std::vector<int32_t>{3, 4, 5, 6, 11, 12, 13, 14, -100, -100, -100, -100}));
  EXPECT_EQ(batch.global_valid_tokens, 2 * kLength);
}

TEST_F(BatchLoaderTest, EveryEpochVisitsEveryWindowOnceInAnOrderOfItsOwn) {
  const auto loader = Open(Job(1, 1, 9, Files()));  // 207 windows = 23 steps of 9
  EXPECT_EQ(loader->num_windows(), 125 + 0 + 82);
  EXPECT_EQ(loader->num_tokens(), 1003 + 5 + 657);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int32_t> order;
    for (int64_t step = epoch * 23; step < (epoch + 1) * 23; ++step) {
      const HostBatch batch = Global(*loader, step, 1);
      for (size_t i = 0; i < 9; ++i) order.push_back(batch.tokens[i * kLength]);
    }
    const std::set<int32_t> distinct(order.begin(), order.end());
    EXPECT_EQ(distinct.size(), 207u);
    EXPECT_EQ(*distinct.begin(), 0);
    EXPECT_EQ(*distinct.rbegin(), 1008 + 81 * kLength);
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
    orders.push_back(order);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
}

TEST_F(BatchLoaderTest, AStepIsTheSameInAnyOrderAndAfterARestart) {
  const ResolvedJob job = Job(2, 1, 6, Files());
  std::map<int64_t, std::vector<int32_t>> first;
  {
    const auto loader = Open(job);
    for (int64_t step = 0; step < 60; ++step) first[step] = Global(*loader, step, 2).tokens;
  }
  const auto restarted = Open(job);
  for (const int64_t step : {59, 3, 34, 35, 0}) {
    EXPECT_EQ(Global(*restarted, step, 2).tokens, first[step]) << step;
  }
}

TEST_F(BatchLoaderTest, SeedChangesTheOrder) {
  ResolvedJob job = Job(1, 1, 6, Files());
  const HostBatch batch = Global(*Open(job), 0, 1);
  job.job.mutable_train()->set_seed(99);
  EXPECT_NE(Global(*Open(job), 0, 1).tokens, batch.tokens);
}

TEST_F(BatchLoaderTest, ValidationVisitsEachOfItsWindowsOnceAndIgnoresTheRest) {
  for (const int dp : {1, 2, 3}) {
    const ResolvedJob job = Job(dp, 2, 12, Files());
    const auto loader = Open(job, Split::kValidation);
    const int64_t windows = 17;
    std::vector<int32_t> visited;
    int64_t valid = 0;
    HostBatch batch;
    const int64_t rounds = 17 / (job.microbatch_sequences * dp) + 1;
    for (int64_t index = 0; index < rounds; ++index) {
      for (int rank = 0; rank < dp; ++rank) {
        ASSERT_TRUE(loader->LoadValidation(index, rank, windows, &batch).ok());
        ASSERT_EQ(batch.tokens.size(), static_cast<size_t>(job.microbatch_sequences * kLength));
        EXPECT_EQ(batch.global_valid_tokens, windows * kLength);
        for (size_t i = 0; i < batch.tokens.size(); ++i) {
          if (batch.targets[i] == -100) continue;
          ++valid;
          if (i % kLength == 0) visited.push_back(batch.tokens[i]);
        }
      }
    }
    EXPECT_EQ(valid, windows * kLength);
    std::vector<int32_t> wanted;
    for (int32_t window = 0; window < windows; ++window) wanted.push_back(window * 8);
    EXPECT_EQ(visited, wanted) << dp;
    EXPECT_EQ(loader->LoadValidation(0, 0, 126, &batch).code(), absl::StatusCode::kOutOfRange);
  }
}

TEST_F(BatchLoaderTest, BadDataIsNamed) {
  WriteRamp("large.tokens", 0, 100, kVocabulary + 1);
  const auto large = BatchLoader::Create(
      Job(1, 1, 2, absl::StrCat("train_files: '", directory_.File("large.tokens"), "'")),
      Split::kTrain);
  EXPECT_NE(large.status().ToString().find("model.vocab_size=5001"), std::string::npos)
      << large.status();
  const ResolvedJob tiny =
      Job(1, 1, 2, absl::StrCat("train_files: '", directory_.File("b.tokens"), "'"));
  EXPECT_NE(BatchLoader::Create(tiny, Split::kTrain).status().ToString().find("9 tokens"),
            std::string::npos);
  EXPECT_EQ(BatchLoader::Create(tiny, Split::kValidation).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(BatchLoaderTest, UnigramEntropyIsThatOfTheFrequencies) {
  auto writer = TokenFileWriter::Create(directory_.File("e.tokens"), 10, "");
  ASSERT_TRUE(writer.ok());
  const std::vector<int32_t> tokens = {1, 1, 1, 1, 2, 2, 3, 4, 1, 1, 1, 1, 2, 2, 3, 4};
  ASSERT_TRUE((*writer)->Append(tokens.data(), 16).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  const auto loader =
      Open(Job(1, 1, 2, absl::StrCat("train_files: '", directory_.File("e.tokens"), "'")));
  const auto entropy = loader->UnigramEntropy();
  ASSERT_TRUE(entropy.ok());
  EXPECT_NEAR(*entropy, 1.75 * std::log(2.0), 1e-12);
}

TEST_F(BatchLoaderTest, SyntheticSplitsDifferButShareTheirChain) {
  const ResolvedJob job = Job(1, 1, 4, "synthetic { tokens: 40000 }");
  const auto train = Open(job), validation = Open(job, Split::kValidation);
  EXPECT_EQ(train->num_tokens(), 40000);
  EXPECT_GE(validation->num_windows(), job.job.evaluate().sequences());
  HostBatch a, b;
  ASSERT_TRUE(train->LoadValidation(0, 0, 4, &a).ok());
  ASSERT_TRUE(validation->LoadValidation(0, 0, 4, &b).ok());
  EXPECT_NE(a.tokens, b.tokens);
  // No transition of one walk is foreign to the other's chain.
  std::map<int32_t, std::set<int32_t>> successors;
  for (const int walk : {0, 1}) {
    const std::vector<int32_t> tokens = MakeSyntheticTokens(40000, kVocabulary, 1234, walk);
    for (size_t i = 1; i < tokens.size(); ++i) successors[tokens[i - 1]].insert(tokens[i]);
  }
  for (const auto& [token, next] : successors) EXPECT_LE(next.size(), 4u) << token;
}

TEST(SyntheticTokens, AreUniformButPredictable) {
  for (const int vocabulary : {1, 2, 256, 50257}) {
    const int states = SyntheticStates(vocabulary);
    const std::vector<int32_t> tokens = MakeSyntheticTokens(400000, vocabulary, 7, 0);
    std::map<int32_t, double> count;
    std::map<std::pair<int32_t, int32_t>, double> pairs;
    for (size_t i = 1; i < tokens.size(); ++i) {
      ASSERT_GE(tokens[i], 0);
      ASSERT_LT(tokens[i], vocabulary);
      ++count[tokens[i - 1]];
      ++pairs[{tokens[i - 1], tokens[i]}];
    }
    EXPECT_EQ(count.size(), static_cast<size_t>(states));
    const double n = static_cast<double>(tokens.size() - 1);
    double unigram = 0, conditional = 0;
    for (const auto& [token, c] : count) unigram -= c / n * std::log(c / n);
    for (const auto& [pair, c] : pairs) conditional -= c / n * std::log(c / count[pair.first]);
    EXPECT_NEAR(unigram, std::log(states), 0.01) << vocabulary;
    EXPECT_LE(conditional, 1.75 * std::log(2.0) + 1e-3) << vocabulary;
    if (vocabulary > 2) {
      EXPECT_GT(conditional, 1.0) << "no constant sequence";
    }
  }
}

TEST(SyntheticTokens, DependOnSeedAndWalk) {
  const auto tokens = MakeSyntheticTokens(100, 256, 7, 0);
  EXPECT_EQ(MakeSyntheticTokens(100, 256, 7, 0), tokens);
  EXPECT_NE(MakeSyntheticTokens(100, 256, 8, 0), tokens);
  EXPECT_NE(MakeSyntheticTokens(100, 256, 7, 1), tokens);
}

}  // namespace
}  // namespace muster::runtime
