// muster ckpt: what is there, and whether it is whole.
#include "launch/commands/ckpt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "kernels/base/error.h"
#include "launch/command_line.h"
#include "launch/exit_codes.h"
#include "runtime/checkpoint/checkpointer.h"

namespace muster::launch {
namespace {

class CkptCommand : public ::testing::Test {
 protected:
  CkptCommand() {
    char pattern[] = "/tmp/muster_ckpt_XXXXXX";
    run_ = mkdtemp(pattern);
    const auto world = parallel::World::Alone();
    auto stream = *kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
    auto tensor = *kernels::Tensor::Allocate(kernels::DType::kFloat32, {40, 10});
    auto checkpointer = *runtime::Checkpointer::Create(
        run_, {{"weight/a", runtime::LogicalRange::Whole({40, 10}), tensor.view()}}, *world,
        stream.view(), {.every_steps = 10, .asynchronous = false});
    for (const int64_t step : {10, 20}) {
      MUSTER_CHECK_OK(checkpointer->MaybeSave({.step = step, .mesh = "dp1"}).status());
    }
    MUSTER_CHECK_OK(checkpointer->Finish());
  }
  ~CkptCommand() override { std::filesystem::remove_all(run_); }

  int Ckpt(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "ckpt");
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(MakeCkpt());
    out_.str("");
    err_.str("");
    return RunCommandLine(arguments, std::move(commands), {out_, err_});
  }
  void Damage() const {
    std::fstream file(run_ + "/checkpoints/step-20/shard-00000-of-00001.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-3, std::ios::end);
    file.put(1);
  }
  std::string run_;
  std::ostringstream out_, err_;
};

TEST_F(CkptCommand, MeasuresTheDiskAndLeavesNothingBehind) {
  ASSERT_EQ(Ckpt({"speed", run_, "--mb", "3"}), kExitDone) << err_.str();
  for (const char* line : {"disk, write", "checkpoint, save", "disk, read", "checkpoint, load"}) {
    EXPECT_NE(out_.str().find(line), std::string::npos) << out_.str();
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(run_), {}), 1);
  EXPECT_EQ(Ckpt({"speed", run_ + "/nowhere"}), kExitFailure);
  EXPECT_NE(err_.str().find("nowhere"), std::string::npos);
}

TEST_F(CkptCommand, ListsTheNewestFirst) {
  ASSERT_EQ(Ckpt({"list", run_}), kExitDone) << err_.str();
  EXPECT_LT(out_.str().find("step-20"), out_.str().find("step-10"));
  EXPECT_NE(out_.str().find("dp1"), std::string::npos) << out_.str();
  ASSERT_EQ(Ckpt({"list", run_, "--json"}), kExitDone) << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  ASSERT_EQ(json.size(), 2u);
  EXPECT_EQ(json[0]["step"], 20);
  EXPECT_GT(json[0]["bytes"], 1600);
  EXPECT_EQ(json[0]["tensors"], 1);
}

TEST_F(CkptCommand, VerifyNamesTheDamagedFileAndTensor) {
  EXPECT_EQ(Ckpt({"verify", run_}), kExitDone) << err_.str();
  Damage();
  EXPECT_EQ(Ckpt({"verify", run_}), kExitFailure);
  EXPECT_NE(err_.str().find("shard-00000-of-00001.safetensors: tensor weight/a"), std::string::npos)
      << err_.str();
  EXPECT_NE(out_.str().find("step-10"), std::string::npos) << out_.str();
  EXPECT_EQ(Ckpt({"verify", run_, "--step", "10"}), kExitDone) << err_.str();
  EXPECT_EQ(Ckpt({"verify", run_, "--step", "11"}), kExitFailure);
  EXPECT_NE(err_.str().find("no checkpoint of step 11"), std::string::npos) << err_.str();
}

TEST_F(CkptCommand, ARunWithoutCheckpointsIsAnErrorThatSaysWhatIsMissing) {
  std::filesystem::create_directories(run_ + "/new/checkpoints");
  const std::pair<std::string, std::string> kCases[] = {
      {run_ + "/nowhere", "nowhere does not exist"},
      {run_ + "/checkpoints/step-10/..", "is no run directory"},
      {run_ + "/new", "new has no checkpoint yet (if its checkpoint.every_steps is 0"},
      {run_ + "/checkpoints/step-7", "has no checkpoint of step 7, but step-20, step-10"}};
  for (const auto& [run, wanted] : kCases) {
    for (const std::string command : {"list", "verify"}) {
      EXPECT_EQ(Ckpt({command, run}), kExitFailure);
      EXPECT_NE(err_.str().find(wanted), std::string::npos) << err_.str();
    }
  }
  EXPECT_EQ(Ckpt({"verify", run_, "--step", "-1"}), kExitUsage);
}

TEST_F(CkptCommand, OneCheckpointMayStandForTheRun) {
  ASSERT_EQ(Ckpt({"verify", run_ + "/checkpoints/step-10/"}), kExitDone) << err_.str();
  EXPECT_NE(out_.str().find("step-10"), std::string::npos) << out_.str();
  EXPECT_EQ(out_.str().find("step-20"), std::string::npos) << out_.str();
}

// A buffer whose owner hears of the first line.
class FirstLine : public std::stringbuf {
 public:
  explicit FirstLine(std::function<void()> heard) : heard_(std::move(heard)) {}

 protected:
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    if (auto heard = std::exchange(heard_, nullptr)) heard();
    return std::stringbuf::xsputn(text, size);
  }

 private:
  std::function<void()> heard_;
};

// After step-20 is told good the run removes step-10.
TEST_F(CkptCommand, WhatALiveRunRemovesMeanwhileIsNotDamaged) {
  FirstLine buffer([&] { std::filesystem::remove_all(run_ + "/checkpoints/step-10"); });
  std::ostream out(&buffer);
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeCkpt());
  EXPECT_EQ(RunCommandLine({"ckpt", "verify", run_}, std::move(commands), {out, err_}), kExitDone);
  EXPECT_EQ(err_.str(), "");
  EXPECT_NE(buffer.str().find("step-10        removed (or replaced) meanwhile by the run"),
            std::string::npos)
      << buffer.str();
}

}  // namespace
}  // namespace muster::launch
