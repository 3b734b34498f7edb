#include "launch/commands/data.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/command_line.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

class DataCommand : public ::testing::Test {
 protected:
  DataCommand() {
    char pattern[] = "/tmp/muster_data_XXXXXX";
    directory_ = mkdtemp(pattern);
    std::ofstream text(Path("text.txt"));
    const char* kWords[] = {"rank", "stream", "bucket", "expert", "token", "mesh", "step", "shard"};
    uint32_t state = 1;
    for (int line = 0; line < 4000; ++line) {
      for (int word = 0; word < 8; ++word) {
        state = state * 1664525u + 1013904223u;
        text << kWords[state >> 29] << (word < 7 ? " " : "\n");
      }
    }
  }
  ~DataCommand() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  int Data(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "data");
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(MakeData());
    out_.str("");
    err_.str("");
    return RunCommandLine(arguments, std::move(commands), {out_, err_});
  }
  int PrepareText() {
    return Data({"prepare", Path("text.txt"), "--out", Path("set"), "--vocab-size", "300"});
  }
  std::string directory_;
  std::ostringstream out_, err_;
};

TEST_F(DataCommand, PreparedTextCanBeInspectedAndComesBack) {
  ASSERT_EQ(PrepareText(), kExitDone) << err_.str();
  EXPECT_EQ(nlohmann::json::parse(out_.str())["tokenizer"]["vocab_size"], 300);
  EXPECT_NE(err_.str().find("encoding"), std::string::npos);  // progress
  ASSERT_EQ(Data({"inspect", Path("set/train.tokens"), Path("set/validation.tokens"), "--tokenizer",
                  Path("set/tokenizer.model"), "--show", "100"}),
            kExitDone)
      << err_.str();
  EXPECT_NE(out_.str().find("expert"), std::string::npos) << out_.str();
  EXPECT_NE(out_.str().find("validation.tokens"), std::string::npos) << out_.str();
}

TEST_F(DataCommand, ImportsATokenFile) {
  ASSERT_EQ(PrepareText(), kExitDone) << err_.str();
  ASSERT_EQ(Data({"import", Path("set/train.tokens"), "--out", Path("copy.tokens")}), kExitDone)
      << err_.str();
  EXPECT_EQ(std::filesystem::file_size(Path("copy.tokens")),
            std::filesystem::file_size(Path("set/train.tokens")));
}

TEST_F(DataCommand, FailuresAreNamedAndLeaveNothing) {
  EXPECT_EQ(Data({"prepare", Path("absent.txt"), "--out", Path("set")}), kExitFailure);
  EXPECT_NE(err_.str().find(Path("absent.txt")), std::string::npos) << err_.str();
  EXPECT_FALSE(std::filesystem::exists(Path("set")));
  EXPECT_EQ(Data({"inspect", Path("text.txt")}), kExitFailure);
  EXPECT_NE(err_.str().find(Path("text.txt")), std::string::npos) << err_.str();
  EXPECT_EQ(Data({"import", Path("text.txt"), "--out", Path("copy.tokens")}), kExitFailure);
  EXPECT_FALSE(std::filesystem::exists(Path("copy.tokens")));
}

TEST_F(DataCommand, MissingArgumentsAreUsageErrors) {
  EXPECT_EQ(Data({"prepare", Path("text.txt")}), kExitUsage);
  EXPECT_NE(err_.str().find("--out"), std::string::npos) << err_.str();
  EXPECT_EQ(Data({"inspect", "x", "--show", "-1"}), kExitUsage);
  EXPECT_EQ(Data({}), kExitUsage);
}

}  // namespace
}  // namespace muster::launch
