#include "launch/commands/report.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "absl/strings/str_join.h"
#include "launch/exit_codes.h"
#include "runtime/goodput/report.h"

namespace muster::launch {
namespace {

class Report : public Command {
 public:
  CommandText text() const override {
    return {
        "report", "goodput and lost time of runs, from their ledgers",
        "Every second of every rank has one name, and every step pays for its executions and its\n"
        "share of failures; the sums are checked: if one does not hold, a step has a goodput that\n"
        "cannot be, or a ledger cannot be read, the exit code is 1. Works while a run is under "
        "way.",
        "muster report runs/first --json"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("RUN", runs_, "run directories")->required();
    app.add_flag("--project", options_.project,
                 "what the run would keep of its time on more GPUs, with their failure rates");
    app.add_flag("--amortise-start-up", options_.amortise_start_up,
                 "divide the start-up among the kept steps, not as a line of its own");
    app.add_flag("--json", json_, "print one JSON object instead of text; an array for several");
  }
  int Run(Console console) override {
    std::vector<std::string> rendered;
    int code = kExitDone;
    for (const std::string& run : runs_) {
      const absl::StatusOr<runtime::RunReport> report = runtime::ReportOf(run, options_);
      if (report.ok()) {
        rendered.push_back(json_ ? runtime::RenderJson(*report) : runtime::RenderText(*report));
        if (options_.project) code = std::max(code, Project(*report, console, &rendered.back()));
        if (rendered.back().back() == '\n') rendered.back().pop_back();
        for (const std::string& error : report->errors) {
          console.err << "muster report: " << run << ": " << error << "\n";
          code = kExitFailure;
        }
        continue;
      }
      console.err << "muster report: " << report.status().message() << "\n";
      code = kExitFailure;
    }
    if (json_ && runs_.size() > 1) {
      console.out << "[" << absl::StrJoin(rendered, ",\n") << "]\n";
    } else if (!rendered.empty()) {
      console.out << absl::StrJoin(rendered, "\n\n") << "\n";
    }
    return code;
  }

 private:
  // Adds to `text`; a JSON object has it already.
  int Project(const runtime::RunReport& report, Console console, std::string* text) const {
    const absl::StatusOr<runtime::FailureModel> model = runtime::FailureModelOf(report);
    if (model.ok()) {
      if (json_) return kExitDone;
      *text += "\n" + runtime::ProjectionText(*model);
      const absl::StatusOr<runtime::OwnProjection> own = runtime::ProjectionOfRun(report);
      if (own.ok()) *text += runtime::OwnProjectionText(*own);
      return kExitDone;
    }
    console.err << "muster report: " << model.status().message() << "\n";
    return kExitFailure;
  }

  std::vector<std::string> runs_;
  runtime::ReportOptions options_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeReport() { return std::make_unique<Report>(); }

}  // namespace muster::launch
