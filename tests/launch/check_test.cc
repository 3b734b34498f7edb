#include "launch/commands/check.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "launch/command_line.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

Outcome CheckConfig(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "check");
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeCheck());
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = RunCommandLine(arguments, std::move(commands), {out, err});
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

constexpr const char* kTinyMoe = MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto";

TEST(CheckCommand, DescribesALegalConfig) {
  const Outcome outcome = CheckConfig({kTinyMoe, "--ranks", "8", "--set", "mesh.ep=4"});
  EXPECT_EQ(outcome.code, kExitDone) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_NE(outcome.out.find("dp8 ep4 (edp2) on 8 ranks"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("8 experts, top 2"), std::string::npos) << outcome.out;
}

TEST(CheckCommand, StatesTheBytesOfTheTierInMemory) {
  const Outcome off = CheckConfig({kTinyMoe, "--ranks", "4"});
  EXPECT_NE(off.out.find("memory tier off"), std::string::npos) << off.out;
  // 670,080 parameters x 12 bytes / 4 ranks.
  const Outcome on =
      CheckConfig({kTinyMoe, "--ranks", "4", "--set", "checkpoint.memory_every_steps=5"});
  EXPECT_NE(on.out.find("every 5 steps in /dev/shm"), std::string::npos) << on.out;
  EXPECT_NE(on.out.find("2 snapshots of 2.0"), std::string::npos) << on.out;
  const Outcome relative = CheckConfig({kTinyMoe, "--set", "checkpoint.memory_directory=shm"});
  EXPECT_EQ(relative.code, kExitUsage);
  EXPECT_NE(relative.err.find("wanted the absolute path"), std::string::npos) << relative.err;
}

TEST(CheckCommand, AnOverrideDoesNotSwallowTheConfig) {
  EXPECT_EQ(CheckConfig({"--set", "mesh.ep=2", "--set", "train.steps=7", kTinyMoe}).code,
            kExitDone);
}

TEST(CheckCommand, PrintedConfigIsLegalAndMeansTheSame) {
  const Outcome printed = CheckConfig({kTinyMoe, "--print", "--set", "train.steps=7"});
  ASSERT_EQ(printed.code, kExitDone) << printed.err;
  const std::string path = MUSTER_BINARY_DIR "/check_test_printed.textproto";
  std::ofstream(path) << printed.out;
  const Outcome again = CheckConfig({path, "--print"});
  EXPECT_EQ(again.out, printed.out) << again.err;
  std::filesystem::remove(path);
}

TEST(CheckCommand, EveryProblemIsNamedAndCostsExitCodeTwo) {
  const Outcome outcome = CheckConfig({kTinyMoe, "--ranks", "4", "--set", "mesh.ep=3", "--set",
                                       "modell.layers=2", "--set", "train.steps=-1"});
  EXPECT_EQ(outcome.code, kExitUsage);
  EXPECT_EQ(outcome.out, "");
  for (const char* key : {"mesh.ep", "modell.layers", "train.steps", "3 problems"}) {
    EXPECT_NE(outcome.err.find(key), std::string::npos) << key << " in\n" << outcome.err;
  }
}

TEST(CheckCommand, AnAbsentFileAndAnImpossibleWorldAreUsageErrors) {
  const Outcome absent = CheckConfig({"/nowhere/job.textproto"});
  EXPECT_EQ(absent.code, kExitUsage);
  EXPECT_NE(absent.err.find("/nowhere/job.textproto"), std::string::npos);
  EXPECT_EQ(CheckConfig({kTinyMoe, "--ranks", "-2"}).code, kExitUsage);
}

}  // namespace
}  // namespace muster::launch
