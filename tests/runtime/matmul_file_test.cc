#include "runtime/train/matmul_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

const kernels::MatmulAlgorithm kOne = {{1, 2, 3, 4, 5, 6, 7, 0xfedcba9876543210}};
const kernels::MatmulAlgorithm kTwo = {{9, 8, 7, 6, 5, 4, 3, 2}};

std::string Header() { return FormatMatmulFile({}); }

TEST(MatmulFile, IsReadAsItWasWritten) {
  const KeptMatmuls matmuls = {{{"H200", "a"}, kOne}, {{"H200", "b"}, kTwo}, {{"H100", "a"}, kTwo}};
  const MatmulFile read = ParseMatmulFile(FormatMatmulFile(matmuls));
  EXPECT_EQ(read.matmuls, matmuls);
  EXPECT_EQ(read.damaged_lines, 0);
  EXPECT_TRUE(read.of_our_form);
}

TEST(MatmulFile, TheLastOfTwoLinesCounts) {
  const std::string later = FormatMatmulFile({{{"H200", "a"}, kTwo}}).substr(Header().size());
  const MatmulFile read = ParseMatmulFile(FormatMatmulFile({{{"H200", "a"}, kOne}}) + later);
  EXPECT_EQ(read.matmuls.at({"H200", "a"}), kTwo);
}

TEST(MatmulFile, PassesOverDamagedLinesOnly) {
  const KeptMatmuls matmuls = {{{"H200", "a"}, kOne}, {{"H200", "b"}, kTwo}};
  const std::string whole = FormatMatmulFile(matmuls);
  // Every byte of the second line, which is the first product's, changed, or the rest cut off.
  const size_t begin = Header().size(), end = whole.find('\n', begin);
  for (size_t at = begin; at < end; ++at) {
    std::string damaged = whole;
    damaged[at] = damaged[at] == '1' ? '2' : '1';
    const MatmulFile read = ParseMatmulFile(damaged);
    EXPECT_EQ(read.damaged_lines, 1) << at;
    EXPECT_FALSE(read.matmuls.contains({"H200", "a"})) << at;
    EXPECT_TRUE(read.matmuls.contains({"H200", "b"})) << at;
    const MatmulFile torn = ParseMatmulFile(whole.substr(0, at));
    EXPECT_TRUE(torn.matmuls.empty()) << at;
    EXPECT_EQ(torn.damaged_lines, at == begin ? 0 : 1) << at;
  }
  EXPECT_FALSE(ParseMatmulFile("another file\n").of_our_form);
}

TEST(MatmulFile, AddingKeepsWhatOthersAdded) {
  const ScratchDirectory directory;
  const std::string path = directory.File("muster/algorithms");  // no such directory yet
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "a"}, kOne}}).ok());
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "b"}, kOne}, {{"H100", "a"}, kOne}}).ok());
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "a"}, kTwo}}).ok());
  const auto read = ReadMatmulFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  const KeptMatmuls expected = {
      {{"H200", "a"}, kTwo}, {{"H200", "b"}, kOne}, {{"H100", "a"}, kOne}};
  EXPECT_EQ(read->matmuls, expected);
}

TEST(MatmulFile, IsNotWrittenAgainForWhatItHas) {
  const ScratchDirectory directory;
  const std::string path = directory.File("algorithms");
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "a"}, kOne}}).ok());
  struct stat before {
  }, after{};
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "a"}, kOne}}).ok());
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino) << "renamed over";
}

TEST(MatmulFile, AddingMendsADamagedOne) {
  const ScratchDirectory directory;
  const std::string whole = FormatMatmulFile({{{"H200", "a"}, kOne}, {{"H200", "b"}, kTwo}});
  const std::string path = directory.Write("algorithms", whole.substr(0, whole.size() - 9));
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "a"}, kOne}}).ok());
  const auto read = ReadMatmulFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->damaged_lines, 0);
  EXPECT_EQ(read->matmuls.size(), 1u);
}

TEST(MatmulFile, AnotherFileIsLeftAlone) {
  const ScratchDirectory directory;
  const std::string path = directory.Write("thesis.txt", "years of work\n");
  const absl::Status status = AddToMatmulFile(path, {{{"H200", "a"}, kOne}});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(ReadWhole(path), "years of work\n");
}

// What is there is always whole, whoever reads when; nothing else is left in the directory.
TEST(MatmulFile, IsWholeAtEveryMoment) {
  const ScratchDirectory directory(FastParent());
  const std::string path = directory.File("algorithms");
  ASSERT_TRUE(AddToMatmulFile(path, {{{"H200", "first"}, kOne}}).ok());
  const auto write = [&path](const std::string& name) {
    for (int i = 0; i < 50; ++i) {
      EXPECT_TRUE(AddToMatmulFile(path, {{{"H200", absl::StrCat(name, i)}, kTwo}}).ok());
    }
  };
  std::thread one(write, "one"), two(write, "two");
  for (int i = 0; i < 200; ++i) {
    const auto read = ReadMatmulFile(path);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->damaged_lines, 0);
    EXPECT_EQ(read->matmuls.count({"H200", "first"}), 1u);
  }
  one.join();
  two.join();
  EXPECT_EQ(directory.NumEntries(), 1);
}

TEST(UsersMatmulFile, IsInTheUsersCacheUnlessNamed) {
  EXPECT_EQ(UsersMatmulFile("/a/file", "/x", "/h"), "/a/file");
  EXPECT_EQ(UsersMatmulFile("", "/x", "/h"), "");
  EXPECT_EQ(UsersMatmulFile(nullptr, "/x", "/h"), "/x/muster/matmul_algorithms.txt");
  EXPECT_EQ(UsersMatmulFile(nullptr, "", "/h"), "/h/.cache/muster/matmul_algorithms.txt");
  EXPECT_EQ(UsersMatmulFile(nullptr, nullptr, nullptr), "");
}

}  // namespace
}  // namespace muster::runtime
