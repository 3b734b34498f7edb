// The agreement about algorithms, with choosers whose searches cost nothing and all end
// differently.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/train/agreed_matmuls.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using kernels::MatmulAlgorithm;
using kernels::MatmulChoice;
using kernels::MatmulKey;
using parallel::TestWorld;

// Every search finds something else: the rank, and how many it has made.
class FakeChooser final : public kernels::MatmulChooser {
 public:
  explicit FakeChooser(std::string scope = "H200") : scope_(std::move(scope)) {}
  std::string scope() const override { return scope_; }
  bool Accepts(const MatmulKey&, const MatmulAlgorithm& algorithm) override {
    return algorithm.data[0] != kRefused;
  }
  absl::StatusOr<MatmulChoice> Search(const MatmulKey& key) override {
    searched.push_back(key);
    if (!failure.ok()) return failure;
    const auto rank = static_cast<uint64_t>(TestWorld().rank());
    return MatmulChoice{{{rank + 1, searched.size()}}, !lacks_memory};
  }
  void Use(const std::map<MatmulKey, MatmulAlgorithm>& chosen) override { used = chosen; }

  static constexpr uint64_t kRefused = 999;
  std::vector<MatmulKey> searched;
  std::map<MatmulKey, MatmulAlgorithm> used;
  absl::Status failure;
  bool lacks_memory = false;

 private:
  const std::string scope_;
};

MatmulKey KeyOf(int64_t n) { return {.m = 4096, .n = n, .k = 4096}; }
std::set<MatmulKey> Keys(int count) {
  std::set<MatmulKey> keys;
  for (int i = 1; i <= count; ++i) keys.insert(KeyOf(1024 * i));
  return keys;
}

std::string Text(const std::map<MatmulKey, MatmulAlgorithm>& used) {
  std::string text;
  for (const auto& [key, algorithm] : used) {
    absl::StrAppend(&text, key.ToString(), "=", algorithm.data[0], ".", algorithm.data[1], "\n");
  }
  return text;
}

class AgreedMatmuls : public ::testing::Test {
 protected:
  AgreedMatmuls()
      : directory_(SharedTemporaryDirectory(TestWorld())),
        files_{.of_run = directory_ + "/of_run", .of_user = directory_ + "/of_user"} {}
  ~AgreedMatmuls() override {
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory_);
  }
  // Once all have written; then all go on together.
  KeptMatmuls Read(const std::string& path) {
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
    const auto file = ReadMatmulFile(path);
    MUSTER_CHECK_OK(file.status());
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
    return file->matmuls;
  }
  void WriteOnRank0(const std::string& path, const KeptMatmuls& matmuls) {
    if (TestWorld().rank() == 0) {
      std::filesystem::remove(path);
      MUSTER_CHECK_OK(AddToMatmulFile(path, matmuls));
    }
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  }
  void ExpectEqualOnAllRanks(const std::string& text) {
    const auto all = TestWorld().GatherText(text);
    ASSERT_TRUE(all.ok());
    for (const std::string& other : *all) EXPECT_EQ(other, text);
  }
  absl::Status Agree(const std::set<MatmulKey>& keys, FakeChooser& chooser) {
    return AgreeOnMatmuls(keys, &chooser, files_, TestWorld());
  }

  const std::string directory_;
  const MatmulFiles files_;
};

TEST_F(AgreedMatmuls, RanksDivideTheSearchesAndUseOneAlgorithmEach) {
  constexpr int kKeys = 12;
  FakeChooser chooser;
  ASSERT_TRUE(Agree(Keys(kKeys), chooser).ok());
  EXPECT_EQ(chooser.used.size(), size_t{kKeys});
  ExpectEqualOnAllRanks(Text(chooser.used));
  const auto counts = TestWorld().GatherText(std::to_string(chooser.searched.size()));
  int searches = 0;
  for (const std::string& count : *counts) {
    searches += std::stoi(count);
    EXPECT_GT(std::stoi(count), 0);
    EXPECT_LE(std::stoi(count), kKeys / TestWorld().size() + 2);
  }
  EXPECT_EQ(searches, kKeys);
}

TEST_F(AgreedMatmuls, AreSearchedOnceForAllLaterStarts) {
  FakeChooser first, again, without_the_users;
  ASSERT_TRUE(Agree(Keys(5), first).ok());
  ASSERT_TRUE(Agree(Keys(5), again).ok());
  EXPECT_TRUE(again.searched.empty());
  EXPECT_EQ(again.used, first.used);
  EXPECT_EQ(Read(files_.of_user).size(), 5u);
  if (TestWorld().rank() == 0) std::filesystem::remove(files_.of_user);
  ASSERT_TRUE(Agree(Keys(5), without_the_users).ok());
  EXPECT_TRUE(without_the_users.searched.empty()) << "the run has kept them too";
  EXPECT_EQ(without_the_users.used, first.used);
  EXPECT_EQ(Read(files_.of_user).size(), 5u) << "given back";
}

TEST_F(AgreedMatmuls, WhatTheRunHasUsedCountsBeforeWhatTheUserHas) {
  const std::string key = KeyOf(1024).ToString();
  WriteOnRank0(files_.of_user, {{{"H200", key}, {{70}}}});
  WriteOnRank0(files_.of_run, {{{"H200", key}, {{80}}}});
  FakeChooser chooser;
  ASSERT_TRUE(Agree(Keys(1), chooser).ok());
  EXPECT_TRUE(chooser.searched.empty());
  EXPECT_EQ(chooser.used.at(KeyOf(1024)).data[0], 80u);
}

TEST_F(AgreedMatmuls, WhatTheLibraryRefusesIsSearchedAndReplaced) {
  const std::string key = KeyOf(1024).ToString();
  for (const std::string& path : {files_.of_run, files_.of_user}) {
    WriteOnRank0(path, {{{"H200", key}, {{FakeChooser::kRefused}}}});
  }
  FakeChooser first, again;
  ASSERT_TRUE(Agree(Keys(1), first).ok());
  EXPECT_NE(first.used.at(KeyOf(1024)).data[0], FakeChooser::kRefused);
  for (const std::string& path : {files_.of_run, files_.of_user}) {
    EXPECT_EQ(Read(path).at({"H200", key}), first.used.at(KeyOf(1024)));
  }
  ASSERT_TRUE(Agree(Keys(1), again).ok());
  EXPECT_TRUE(again.searched.empty()) << "searched at each start";
  EXPECT_EQ(again.used, first.used);
}

TEST_F(AgreedMatmuls, DevicesOfOtherKindsChooseForThemselves) {
  FakeChooser chooser(TestWorld().rank() % 2 == 0 ? "H200" : "H100");
  ASSERT_TRUE(Agree(Keys(4), chooser).ok());
  const auto all = TestWorld().GatherText(Text(chooser.used));
  ASSERT_TRUE(all.ok());
  for (size_t rank = 0; rank < all->size(); ++rank) {
    EXPECT_EQ((*all)[rank] == Text(chooser.used),
              rank % 2 == static_cast<size_t>(TestWorld().rank()) % 2);
  }
  const size_t kinds = TestWorld().size() > 1 ? 2 : 1;
  EXPECT_EQ(Read(files_.of_user).size(), 4 * kinds);
}

// As the stages of a pipeline do.
TEST_F(AgreedMatmuls, RanksMayWantDifferentProducts) {
  const int rank = TestWorld().rank();
  FakeChooser chooser;
  const std::set<MatmulKey> keys = {KeyOf(512), KeyOf(1024 * (rank + 1))};
  ASSERT_TRUE(Agree(keys, chooser).ok());
  EXPECT_EQ(chooser.used.size(), 2u);
  for (const MatmulKey& key : chooser.searched) EXPECT_TRUE(keys.contains(key));
  ExpectEqualOnAllRanks(Text({{KeyOf(512), chooser.used.at(KeyOf(512))}}));
  EXPECT_EQ(Read(files_.of_run).size(), static_cast<size_t>(TestWorld().size()) + 1);
}

TEST_F(AgreedMatmuls, WhatWasNotSearchedIsUsedByAllAndKeptByNobody) {
  FakeChooser chooser;
  chooser.lacks_memory = true;
  ASSERT_TRUE(Agree(Keys(3), chooser).ok());
  EXPECT_EQ(chooser.used.size(), 3u);
  ExpectEqualOnAllRanks(Text(chooser.used));
  EXPECT_TRUE(Read(files_.of_run).empty());
  EXPECT_TRUE(Read(files_.of_user).empty());
}

TEST_F(AgreedMatmuls, SmallProductsAreLeftToTheLibrary) {
  FakeChooser chooser;
  ASSERT_TRUE(Agree({{.m = 8, .n = 8, .k = 8}, KeyOf(1024)}, chooser).ok());
  EXPECT_EQ(chooser.used.size(), 1u);
}

TEST_F(AgreedMatmuls, AFailureIsEveryRanks) {
  FakeChooser chooser;
  const int last = TestWorld().size() - 1;
  if (TestWorld().rank() == last) chooser.failure = absl::InternalError("two\nlines");
  const absl::Status status = Agree(Keys(12), chooser);
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  ExpectEqualOnAllRanks(std::string(status.message()));
  EXPECT_NE(status.message().find(absl::StrCat("rank ", last)), std::string::npos) << status;
  EXPECT_TRUE(chooser.used.empty());
}

TEST_F(AgreedMatmuls, ASearchThatIsOffForSomeRanksOnlyIsRefusedOnAll) {
  FakeChooser chooser;
  const bool chooses = TestWorld().rank() == 0;
  const absl::Status status =
      AgreeOnMatmuls(Keys(3), chooses ? &chooser : nullptr, files_, TestWorld());
  EXPECT_EQ(status.ok(), TestWorld().size() == 1) << status;
  EXPECT_TRUE(AgreeOnMatmuls(Keys(3), nullptr, files_, TestWorld()).ok());
}

TEST_F(AgreedMatmuls, AFileThatIsNoFileCostsAWarningOnly) {
  std::filesystem::create_directories(files_.of_run);
  FakeChooser chooser;
  ASSERT_TRUE(Agree(Keys(2), chooser).ok());
  EXPECT_EQ(chooser.used.size(), 2u);
  EXPECT_EQ(Read(files_.of_user).size(), 2u);
}

// Of 12 products of one size 4 ranks search 3 each, of a long one and short ones the long one
// alone.
TEST(DividedMatmuls, RanksEndAboutTogether) {
  std::vector<MatmulWishes> all(4);
  for (MatmulWishes& wishes : all) {
    wishes.scope = "H200";
    for (int i = 0; i < 12; ++i) wishes.wishes.push_back({absl::StrCat("key", i), 1e12});
  }
  for (const auto& searches : DivideMatmuls(all).searches) EXPECT_EQ(searches.size(), 3u);
  for (MatmulWishes& wishes : all) wishes.wishes.push_back({"long", 2e13});
  const auto searches = DivideMatmuls(all).searches;
  EXPECT_EQ(searches[0], std::vector<std::string>{"long"});
  for (size_t rank = 1; rank < 4; ++rank) EXPECT_EQ(searches[rank].size(), 4u);
}

}  // namespace
}  // namespace muster::runtime
