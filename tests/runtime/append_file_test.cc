#include "runtime/job/append_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>

#include "tests/support/runtime/file_size_limit.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

// So long that what the tests log stays below the limit that they set.
constexpr size_t kLong = 20'000;

std::string Record(char c, size_t bytes = 100) { return std::string(bytes - 1, c) + "\n"; }

int Occurrences(const std::string& text, const std::string& what) {
  int found = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; ++at) ++found;
  return found;
}

std::unique_ptr<AppendFile> MustOpen(const std::string& path, AppendFile::Start start) {
  auto file = AppendFile::Open(path, start);
  EXPECT_TRUE(file.ok()) << file.status();
  return *std::move(file);
}

// A file of one long record, on a disk with room for half a short one.
class AppendFileOnAFullDisk : public ::testing::Test {
 protected:
  AppendFileOnAFullDisk()
      : path_(scratch_.File("records")), file_(MustOpen(path_, AppendFile::Start::kNew)) {
    file_->Append(Record('a', kLong));
    full_.emplace(kLong + 50);
    testing::internal::CaptureStderr();
  }
  void ThereIsRoom() { full_.reset(); }

  const ScratchDirectory scratch_;
  const std::string path_;
  std::unique_ptr<AppendFile> file_;
  std::optional<FileSizeLimit> full_;
};

TEST_F(AppendFileOnAFullDisk, EndsTheFileWithAWholeRecordAndSaysSoOnce) {
  for (const char c : {'b', 'c', 'd'}) {
    file_->Append(Record(c));
    EXPECT_EQ(ReadWhole(path_), Record('a', kLong));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(Occurrences(log, "\n"), 1) << log;
  EXPECT_NE(log.find("ERROR: cannot write " + path_ + ": File too large; training goes on"),
            std::string::npos)
      << log;
  EXPECT_TRUE(absl::IsResourceExhausted(file_->first_error())) << file_->first_error();
}

TEST_F(AppendFileOnAFullDisk, LosesNothingIfThereIsRoomAgain) {
  for (const char c : {'b', 'c', 'd'}) file_->Append(Record(c));
  ThereIsRoom();
  file_->Append(Record('e'));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(ReadWhole(path_),
            Record('a', kLong) + Record('b') + Record('c') + Record('d') + Record('e'));
  EXPECT_EQ(file_->num_lost(), 0);
  EXPECT_NE(log.find("is written again; 3 records came late, 0 are lost"), std::string::npos)
      << log;
}

TEST_F(AppendFileOnAFullDisk, AtTheEndTellsHowManyAreLost) {
  for (const char c : {'b', 'c', 'd'}) file_->Append(Record(c));
  file_.reset();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("3 records of " + path_ + " are lost: cannot write"), std::string::npos)
      << log;
  EXPECT_EQ(ReadWhole(path_), Record('a', kLong));
}

TEST_F(AppendFileOnAFullDisk, HoldsABoundedNumberOfBytesAndLosesInOneGap) {
  const size_t most = AppendFile::kMostWaitingBytes / kLong;
  for (size_t i = 0; i < most + 7; ++i) file_->Append(Record('b', kLong));
  file_->Append(Record('c', 10));  // would fit, but would not be next to what came before
  EXPECT_EQ(file_->num_lost(), 8);
  ThereIsRoom();
  file_->Append(Record('d'));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(Occurrences(log, "what comes now is lost"), 1) << log;
  const std::string text = ReadWhole(path_);
  EXPECT_EQ(text.size(), (most + 1) * kLong + 100);
  EXPECT_TRUE(text.ends_with(Record('b', kLong) + Record('d')));
}

TEST_F(AppendFileOnAFullDisk, CountsWhatItsCallerDrops) {
  file_->Append(Record('b'));
  file_->Drop();
  ThereIsRoom();
  file_.reset();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("1 records of " + path_ + " are lost"), std::string::npos) << log;
  EXPECT_EQ(ReadWhole(path_), Record('a', kLong) + Record('b'));
}

TEST_F(AppendFileOnAFullDisk, ThatComesAndGoesIsToldOfMoreAndMoreRarely) {
  for (int i = 0; i < 100; ++i) {
    file_->Append(Record('b', 60));
    ThereIsRoom();
    file_->Flush();
    full_.emplace(ReadWhole(path_).size() + 50);
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(Occurrences(log, "training goes on"), 7) << log;  // 1, 2, 4, ..., 64
  EXPECT_EQ(Occurrences(log, "is written again"), 7) << log;
}

TEST(AppendFile, CutsATornLastLineOnlyWhereAskedTo) {
  const ScratchDirectory scratch;
  const std::string path = scratch.Write("file", "one\ntw");
  MustOpen(path, AppendFile::Start::kAsIs);
  EXPECT_EQ(ReadWhole(path), "one\ntw");
  MustOpen(path, AppendFile::Start::kLines)->Append("three\n");
  EXPECT_EQ(ReadWhole(path), "one\nthree\n");
  EXPECT_TRUE(absl::IsAlreadyExists(AppendFile::Open(path, AppendFile::Start::kNew).status()));
}

}  // namespace
}  // namespace muster::runtime
