#include "launch/commands/report.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/device/span.h"
#include "launch/command_line.h"
#include "launch/exit_codes.h"
#include "runtime/goodput/ledger.h"

namespace muster::launch {
namespace {

class ReportCommand : public ::testing::Test {
 protected:
  ReportCommand() {
    char pattern[] = "/tmp/muster_report_XXXXXX";
    directory_ = mkdtemp(pattern);
    WriteRun(/*attempt=*/0, /*peak_flops=*/1e12);
  }
  // An attempt of one rank and one step.
  void WriteRun(int attempt, double peak_flops) {
    runtime::AttemptBegin begin;
    begin.attempt = attempt;
    begin.peak_flops = peak_flops;
    begin.peak_label = "test";
    begin.process_start_monotonic_ns = kernels::MonotonicNs();
    auto ledger = runtime::LedgerWriter::Create(directory_, begin);
    if (!ledger.ok()) {
      ADD_FAILURE() << ledger.status();
      return;
    }
    (*ledger)->Enter(runtime::State::kInitModel);
    (*ledger)->StepBegin(1);
    runtime::StepEnd step;
    step.step = 1;
    step.model_flops = 1;
    step.tokens = 64;
    (*ledger)->StepEnded(step);
    (*ledger)->End(0);
  }
  ~ReportCommand() override { std::filesystem::remove_all(directory_); }

  int Report(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "report");
    std::vector<std::unique_ptr<Command>> commands;
    commands.push_back(MakeReport());
    out_.str("");
    err_.str("");
    return RunCommandLine(arguments, std::move(commands), {out_, err_});
  }
  std::string directory_;
  std::ostringstream out_, err_;
};

TEST_F(ReportCommand, PrintsTextOrOneJsonObject) {
  EXPECT_EQ(Report({directory_}), kExitDone) << err_.str();
  EXPECT_NE(out_.str().find("Goodput "), std::string::npos) << out_.str();
  EXPECT_EQ(Report({directory_, "--json"}), kExitDone) << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  for (const char* key : {"device_seconds", "allocated_device_seconds", "goodput", "factors",
                          "attempts", "lost_by_cause"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
}

TEST_F(ReportCommand, AStepWithAGoodputThatCannotBeFailsAndIsStillReported) {
  WriteRun(/*attempt=*/1, /*peak_flops=*/1.0);
  EXPECT_EQ(Report({directory_}), kExitFailure);
  EXPECT_NE(err_.str().find(directory_ + ": step 1 of attempt 1 has a goodput of"),
            std::string::npos)
      << err_.str();
  EXPECT_NE(out_.str().find("Goodput "), std::string::npos);
}

TEST_F(ReportCommand, StartUpCanBeDividedAmongSteps) {
  EXPECT_EQ(Report({directory_, "--json", "--amortise-start-up"}), kExitDone) << err_.str();
  const auto charges = nlohmann::json::parse(out_.str())["charges"];
  EXPECT_EQ(charges["start_up_amortised"], true);
  EXPECT_EQ(charges["uncharged_device_ns"]["start_up"], 0);
}

TEST_F(ReportCommand, SeveralRunsAreAnArray) {
  EXPECT_EQ(Report({"--json", directory_, directory_}), kExitDone) << err_.str();
  EXPECT_EQ(nlohmann::json::parse(out_.str()).size(), 2u);
}

TEST_F(ReportCommand, ARunThatIsNotThereIsNamedAndTheOthersAreStillReported) {
  EXPECT_EQ(Report({"/nowhere/run", directory_}), kExitFailure);
  EXPECT_NE(err_.str().find("/nowhere/run"), std::string::npos) << err_.str();
  EXPECT_NE(out_.str().find("Goodput "), std::string::npos);
}

}  // namespace
}  // namespace muster::launch
