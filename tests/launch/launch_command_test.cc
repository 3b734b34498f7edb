// muster launch with a stand-in for mpirun, which writes down how it was called.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "launch/command_line.h"
#include "launch/commands/launch.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";

class LaunchCommandTest : public ::testing::Test {
 protected:
  LaunchCommandTest() : path_before_(std::getenv("PATH")) {
    char pattern[] = "/tmp/muster_launch_XXXXXX";
    directory_ = mkdtemp(pattern);
    run_ = directory_ + "/run";
    setenv("PATH", (directory_ + ":" + path_before_).c_str(), 1);
  }
  ~LaunchCommandTest() override {
    setenv("PATH", path_before_.c_str(), 1);
    fs::remove_all(directory_);
  }
  // What the stand-in does in attempt $MUSTER_ATTEMPT; its call is a line of calls().
  void MakeMpirun(const std::string& script) const {
    const std::string path = directory_ + "/mpirun";
    std::ofstream(path) << "#!/bin/sh\necho \"$@\" >> " << directory_ << "/calls\n" << script;
    chmod(path.c_str(), 0700);
  }
  std::vector<std::string> calls() const {
    std::vector<std::string> lines;
    std::ifstream file(directory_ + "/calls");
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
  int Launch(const std::string& resume) {
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(MakeLaunch());
    std::ostringstream out, err;
    std::vector<std::string> arguments = {"launch", kConfig, "--ranks",  "2",
                                          "--run",  run_,    "--resume", resume};
    arguments.insert(arguments.end(), extra_.begin(), extra_.end());
    const int code = RunCommandLine(arguments, std::move(commands), {out, err});
    err_ = err.str();
    return code;
  }

  static std::string OwnName() {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    return name;
  }

  const std::string path_before_;
  std::vector<std::string> extra_;  // arguments
  std::string directory_, run_, err_;
};

TEST_F(LaunchCommandTest, BeginsAsToldAndGoesOnOnceTheRunIsThere) {
  // The first attempt dies before its run is there, the second one after.
  MakeMpirun("case $MUSTER_ATTEMPT in\n0) exit 1;;\n1) touch " + run_ +
             "/config.textproto; exit 1;;\nesac\n");
  EXPECT_EQ(Launch("/data/other"), kExitDone) << err_;
  const std::vector<std::string> lines = calls();
  ASSERT_EQ(lines.size(), 3u) << err_;
  EXPECT_TRUE(lines[0].ends_with("--resume /data/other")) << lines[0];
  EXPECT_TRUE(lines[1].ends_with("--resume /data/other")) << lines[1];
  EXPECT_TRUE(lines[2].ends_with("--resume auto")) << lines[2];
}

TEST_F(LaunchCommandTest, ARunThatIsThereIsRefusedUnlessItShallGoOn) {
  MakeMpirun("exit 0\n");
  fs::create_directories(run_);
  std::ofstream(run_ + "/config.textproto") << "name: 'kept'\n";
  for (const char* resume : {"never", "/data/other"}) {
    EXPECT_EQ(Launch(resume), kExitUsage);
    EXPECT_NE(err_.find("holds a run already"), std::string::npos) << err_;
  }
  EXPECT_FALSE(fs::exists(run_ + "/ledger")) << "a refused launch leaves nothing in a run";
  EXPECT_EQ(Launch("auto"), kExitDone) << err_;
  EXPECT_EQ(calls().size(), 1u);
}

TEST_F(LaunchCommandTest, ASecondLauncherIsRefusedWithinTwoSecondsAndToldWhoHoldsTheRun) {
  MakeMpirun("exec sleep 60\n");
  const pid_t child = fork();
  if (child == 0) _exit(Launch("auto"));
  const auto signature = [this] {
    std::ifstream file(run_ + "/launch.lock");
    std::string line;
    std::getline(file, line);
    return line;
  };
  for (int i = 0; i < 600 && signature().find("attempt 0") == std::string::npos; ++i)
    usleep(50'000);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Launch("auto"), kExitDoNotRequeue);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LE(took.count(), 3);  // 1.1 s on a calm host
  for (const std::string& part :
       {std::string("has a supervisor already"), "process " + std::to_string(child), OwnName(),
        std::string("attempt 0")}) {
    EXPECT_NE(err_.find(part), std::string::npos) << part << " in: " << err_;
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  MakeMpirun("exit 0\n");
  EXPECT_EQ(Launch("auto"), kExitDone) << err_;  // the lock ended with its holder
}

TEST_F(LaunchCommandTest, HostsThatCannotReachTheSupervisorAreRefusedAtOnce) {
  MakeMpirun("exit 0\n");
  std::ofstream(directory_ + "/hosts") << OwnName() << " slots=2\nelsewhere slots=2\n";
  extra_ = {"--hosts", directory_ + "/hosts"};
  EXPECT_EQ(Launch("auto"), kExitUsage);
  EXPECT_NE(err_.find("ranks on elsewhere cannot reach this supervisor at 127.0.0.1"),
            std::string::npos)
      << err_;
  EXPECT_TRUE(calls().empty());
  EXPECT_FALSE(fs::exists(run_));
}

}  // namespace
}  // namespace muster::launch
