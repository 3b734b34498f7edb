#include "runtime/job/read_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

TEST(ReadFile, GivesAnyPartAndNamesWhatIsMissing) {
  const ScratchDirectory scratch;
  const std::string path = scratch.Write("file", "0123456789");
  const auto file = ReadFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), 10);
  std::string part(4, '?');
  ASSERT_TRUE(file->Read(3, part.data(), 4).ok());
  EXPECT_EQ(part, "3456");
  EXPECT_TRUE(file->Read(10, part.data(), 0).ok());
  fs::resize_file(path, 5);
  const absl::Status cut = file->Read(3, part.data(), 4);
  EXPECT_TRUE(absl::IsDataLoss(cut)) << cut;
  EXPECT_NE(cut.message().find(path + ": wanted 2 bytes at offset 5"), std::string::npos) << cut;
}

TEST(ReadFile, NothingButRegularFilesIsOpened) {
  const ScratchDirectory scratch;
  scratch.Write("file", "x");
  fs::create_symlink(scratch.File("file"), scratch.File("link"));
  ASSERT_EQ(mkfifo(scratch.File("pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "pipe", "."}) {
    EXPECT_TRUE(absl::IsDataLoss(ReadFile::Open(scratch.File(name)).status())) << name;
  }
  EXPECT_TRUE(absl::IsNotFound(ReadFile::Open(scratch.File("none")).status()));
}

TEST(ReadDirectory, StaysWithTheDirectoryThatItOpened) {
  const ScratchDirectory scratch;
  fs::create_directories(scratch.File("real"));
  fs::create_directories(scratch.File("other"));
  scratch.Write("real/file", "good");
  scratch.Write("other/file", "evil");
  const auto directory = ReadDirectory::Open(scratch.File("real"));
  ASSERT_TRUE(directory.ok()) << directory.status();
  fs::rename(scratch.File("real"), scratch.File("moved"));
  fs::create_directory_symlink(scratch.File("other"), scratch.File("real"));
  const auto file = directory->OpenFile("file");
  ASSERT_TRUE(file.ok()) << file.status();
  std::string text(4, '?');
  ASSERT_TRUE(file->Read(0, text.data(), 4).ok());
  EXPECT_EQ(text, "good");
  EXPECT_TRUE(absl::IsDataLoss(ReadDirectory::Open(scratch.File("real")).status()));
  fs::create_symlink(scratch.File("other/file"), scratch.File("moved/link"));
  EXPECT_TRUE(absl::IsDataLoss(directory->OpenFile("link").status()));
}

}  // namespace
}  // namespace muster::runtime
