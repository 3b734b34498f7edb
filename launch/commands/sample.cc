#include "launch/commands/sample.h"

#include <CLI/CLI.hpp>

#include "launch/exit_codes.h"
#include "runtime/train/sample.h"

namespace muster::launch {
namespace {

class SampleCommand : public Command {
 public:
  CommandText text() const override {
    return {"sample", "continue a prompt with the weights of a finished run",
            "The run must have been trained with data.tokenizer. Each token computes its whole "
            "context anew: meant for a look at what was learned.",
            "muster sample runs/quickstart --prompt 'The kernel'"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("RUN", run_, "the run directory")->required();
    app.add_option("--prompt", options_.prompt, "the text to continue")->required();
    app.add_option("--tokens", options_.max_tokens, "how many tokens to add")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--temperature", options_.temperature, "0: always the likeliest token")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--top-k", options_.top_k, "choose among the k likeliest; 0: all")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--seed", options_.seed, "of the choice")->capture_default_str();
  }
  int Run(Console console) override {
    const absl::StatusOr<std::string> text = runtime::SampleText(run_, options_);
    if (!text.ok()) {
      console.err << "muster sample: " << text.status().message() << "\n";
      return text.status().code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
    }
    console.out << options_.prompt << *text << "\n";
    return kExitDone;
  }

 private:
  std::string run_;
  runtime::SampleOptions options_;
};

}  // namespace

std::unique_ptr<Command> MakeSample() { return std::make_unique<SampleCommand>(); }

}  // namespace muster::launch
