#include "launch/rank_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace muster::launch {
namespace {

class RankLogTest : public ::testing::Test {
 protected:
  RankLogTest() {
    char pattern[] = "/tmp/muster_rank_log_XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~RankLogTest() override { std::filesystem::remove_all(directory_); }
  static std::string Text(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // Runs `body` in a child whose stderr is directory_/terminal; returns its wait status.
  template <typename Body>
  int InChild(Body body) {
    std::fflush(nullptr);  // else the child may write what waits in this process
    const pid_t child = fork();
    if (child == 0) {
      const int terminal =
          open((directory_ + "/terminal").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      dup2(terminal, STDERR_FILENO);
      body();
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
  }
  // The copier of a killed rank outlives it by a moment.
  std::string TextOnceItHas(const std::string& path, const std::string& words) {
    for (int i = 0; i < 500 && Text(path).find(words) == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return Text(path);
  }
  std::string directory_;
};

TEST_F(RankLogTest, StderrGoesToTheFileAndToWhereItWent) {
  InChild([&] {
    auto log = RankLog::Open(directory_ + "/run", 3);
    if (!log.ok()) _exit(1);
    std::fputs("one line\n", stderr);
    log->reset();
    std::fputs("after it\n", stderr);
  });
  EXPECT_EQ(Text(directory_ + "/run/logs/rank-3.log"), "one line\n");
  EXPECT_EQ(Text(directory_ + "/terminal"), "one line\nafter it\n");
}

TEST_F(RankLogTest, ALaterAttemptAppends) {
  for (const char* line : {"first\n", "second\n"}) {
    InChild([&] {
      auto log = RankLog::Open(directory_, 0);
      if (log.ok()) std::fputs(line, stderr);
      if (log.ok()) log->reset();
    });
  }
  EXPECT_EQ(Text(directory_ + "/logs/rank-0.log"), "first\nsecond\n");
}

TEST_F(RankLogTest, KeepsAllOfALongText) {
  const std::string line(999, 'x');
  InChild([&] {
    auto log = RankLog::Open(directory_, 0);
    for (int i = 0; i < 3000; ++i) std::fprintf(stderr, "%s\n", line.c_str());
    log->reset();
  });
  EXPECT_EQ(std::filesystem::file_size(directory_ + "/logs/rank-0.log"), 3'000'000u);
  EXPECT_EQ(std::filesystem::file_size(directory_ + "/terminal"), 3'000'000u);
}

TEST_F(RankLogTest, LastWordsOfADyingRankReachTheFile) {
  for (const int signal_number : {SIGABRT, SIGKILL}) {
    const std::string words = "last words " + std::to_string(signal_number);
    const int status = InChild([&] {
      auto log = RankLog::Open(directory_, signal_number);
      std::fprintf(stderr, "%s\n", words.c_str());
      raise(signal_number);
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal_number);
    const std::string path = directory_ + "/logs/rank-" + std::to_string(signal_number) + ".log";
    EXPECT_NE(TextOnceItHas(path, words).find(words), std::string::npos);
  }
}

TEST_F(RankLogTest, ASignalToTheWholeProcessGroupDoesNotCutTheLogShort) {
  InChild([&] {
    setpgid(0, 0);
    auto log = RankLog::Open(directory_, 0);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    std::fputs("drained\n", stderr);
    log->reset();
  });
  EXPECT_EQ(Text(directory_ + "/logs/rank-0.log"), "drained\n");
}

TEST_F(RankLogTest, AnUnwritableDirectoryIsNamed) {
  std::ofstream(directory_ + "/file") << "not a directory";
  const auto log = RankLog::Open(directory_ + "/file", 0);
  ASSERT_FALSE(log.ok());
  EXPECT_NE(log.status().message().find(directory_ + "/file/logs"), std::string::npos)
      << log.status();
}

}  // namespace
}  // namespace muster::launch
