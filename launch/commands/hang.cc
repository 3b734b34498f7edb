#include "launch/commands/hang.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "launch/exit_codes.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/hang_report.h"

namespace muster::launch {
namespace {

// The newest attempt that left logs, or -1.
int NewestHang(const std::string& run) {
  int newest = -1;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/hang", error)) {
    const std::string name = entry.path().filename();
    int attempt = -1;
    if (std::sscanf(name.c_str(), "attempt-%d", &attempt) == 1) newest = std::max(newest, attempt);
  }
  return newest;
}

class Hang : public Command {
 public:
  CommandText text() const override {
    return {
        "hang", "which collective a run hung in, and which rank was missing",
        "When a collective fails or overruns its deadline, every rank that can writes its last\n"
        "calls to hang/attempt-<n>/rank-<r>.log in the run directory. This lays them side by\n"
        "side, and names the first call on which ranks differ, and who waits for whom.",
        "muster hang runs/first"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("RUN", run_, "the run directory")->required();
    app.add_option("--attempt", attempt_, "which attempt (default: the newest that hung)")
        ->type_name("N");
  }
  int Run(Console console) override {
    const int attempt = attempt_ >= 0 ? attempt_ : NewestHang(run_);
    if (attempt < 0) {
      console.out << "no attempt of " << run_ << " left collective logs: none hung\n";
      return kExitDone;
    }
    const auto records = parallel::ReadRecords(parallel::HangDirectory(run_, attempt));
    if (!records.ok()) {
      console.err << "muster hang: " << records.status().message() << "\n";
      return kExitFailure;
    }
    console.out << "attempt " << attempt << "\n"
                << parallel::Describe(parallel::ExplainHang(*records));
    return kExitDone;
  }

 private:
  std::string run_;
  int attempt_ = -1;
};

}  // namespace

std::unique_ptr<Command> MakeHang() { return std::make_unique<Hang>(); }

}  // namespace muster::launch
