#include "launch/commands/data.h"

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "absl/strings/str_format.h"
#include "launch/exit_codes.h"
#include "runtime/input/inspect.h"
#include "runtime/input/prepare.h"

namespace muster::launch {
namespace {

// One line that is written over and over on a terminal, and a line a phase elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(std::ostream& err) : err_(err), terminal_(isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() {
    if (terminal_ && !phase_.empty()) err_ << "\n";
  }
  void Show(const std::string& phase, int64_t done, int64_t total) {
    const int percent =
        total > 0 ? static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total))
                  : 0;
    if (terminal_ && (phase != phase_ || percent != percent_)) {
      if (phase != phase_ && !phase_.empty()) err_ << "\n";
      err_ << absl::StrFormat("\r%-24s %3d %%", phase, percent) << std::flush;
    } else if (phase != phase_) {
      err_ << phase << "\n" << std::flush;
    }
    phase_ = phase;
    percent_ = percent;
  }

 private:
  std::ostream& err_;
  const bool terminal_;
  std::string phase_;
  int percent_ = -1;
};

int Failed(const char* command, const absl::Status& status, Console console) {
  console.err << "muster data " << command << ": " << status.message() << "\n";
  return kExitFailure;
}

class Prepare : public Command {
 public:
  CommandText text() const override {
    return {"prepare", "plain text to token files",
            "Writes train.tokens, validation.tokens, tokenizer.model and dataset.json to a new\n"
            "directory, which appears whole or not at all. The same text gives the same bytes.",
            "muster data prepare book.txt --out data/book --vocab-size 4096"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("TEXT", options_.texts, "UTF-8 text files, taken in this order")->required();
    app.add_option("--out", options_.output_directory, "directory to make")
        ->type_name("DIR")
        ->required();
    app.add_option("--tokenizer", options_.tokenizer_file,
                   "a SentencePiece model to use (default: train one)")
        ->type_name("FILE");
    app.add_option("--vocab-size", options_.vocab_size, "of the tokenizer to train (8192)")
        ->type_name("N");
    app.add_option("--tokenizer-text-bytes", options_.tokenizer_text_bytes,
                   "how much text it learns from, at most (8388608)")
        ->type_name("BYTES");
    app.add_option("--validation-every", options_.validation_every,
                   "every n-th block of lines is for validation (20)")
        ->type_name("N");
    app.add_flag("--replace-invalid-utf8", options_.replace_invalid_utf8,
                 "replace bytes that are no UTF-8 by U+FFFD, and count them, instead of failing");
  }
  int Run(Console console) override {
    absl::StatusOr<runtime::DatasetSummary> summary;
    {
      ProgressLine line(console.err);
      options_.progress = [&](const runtime::PrepareProgress& progress) {
        line.Show(progress.phase, progress.done_bytes, progress.total_bytes);
      };
      summary = runtime::PrepareDataset(options_);
    }
    if (!summary.ok()) return Failed("prepare", summary.status(), console);
    console.out << runtime::ToJson(*summary);
    return kExitDone;
  }

 private:
  runtime::PrepareOptions options_;
};

class Inspect : public Command {
 public:
  CommandText text() const override {
    return {"inspect", "what a token file holds",
            "Reads Muster token files, Megatron-LM's .bin/.idx and llm.c's .bin; verifies hashes.",
            "muster data inspect data/book/train.tokens --tokenizer data/book/tokenizer.model"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("FILE", files_, "token files")->required();
    app.add_option("--tokenizer", tokenizer_, "a SentencePiece model, to show the first tokens")
        ->type_name("FILE");
    app.add_option("--show", num_shown_, "how many tokens to show (32)")->type_name("N");
  }
  int Run(Console console) override {
    if (num_shown_ < 0) {
      console.err << "muster data inspect: --show " << num_shown_ << ": wanted a number >= 0\n";
      return kExitUsage;
    }
    int code = kExitDone;
    for (const std::string& file : files_) {
      const auto report = runtime::InspectTokens(file, tokenizer_, num_shown_);
      if (report.ok()) {
        console.out << runtime::RenderText(*report);
      } else {
        code = Failed("inspect", report.status(), console);
      }
    }
    return code;
  }

 private:
  std::vector<std::string> files_;
  std::string tokenizer_;
  int num_shown_ = 32;
};

class Import : public Command {
 public:
  CommandText text() const override {
    return {"import", "another trainer's token file to one of Muster's",
            "Training also reads those formats in place; Muster's has a hash and a vocabulary.",
            "muster data import corpus_text_document --out data/corpus.tokens --vocab-size 50257"};
  }
  void Declare(CLI::App& app) override {
    app.add_option("SOURCE", options_.source, "Megatron-LM prefix, or llm.c .bin")->required();
    app.add_option("--out", options_.output, "token file to write; replaced if it is there")
        ->type_name("FILE")
        ->required();
    app.add_option("--vocab-size", options_.vocab_size,
                   "ids must be below (default: the source's, or its highest id + 1)")
        ->type_name("N");
  }
  int Run(Console console) override {
    absl::StatusOr<runtime::TokenFacts> facts;
    {
      ProgressLine line(console.err);
      options_.progress = [&](int64_t done, int64_t total) { line.Show("importing", done, total); };
      facts = runtime::ImportTokens(options_);
    }
    if (!facts.ok()) return Failed("import", facts.status(), console);
    console.out << absl::StrFormat("%s: %d tokens, vocabulary %d\n", options_.output,
                                   facts->num_tokens, facts->vocab_size);
    return kExitDone;
  }

 private:
  runtime::ImportOptions options_;
};

class Data : public Command {
 public:
  CommandText text() const override {
    return {"data", "text to tokens; a look at token files; other trainers' formats", "",
            "muster data prepare book.txt --out data/book --vocab-size 4096"};
  }
  std::vector<std::unique_ptr<Command>> Parts() override {
    std::vector<std::unique_ptr<Command>> parts;
    parts.push_back(std::make_unique<Prepare>());
    parts.push_back(std::make_unique<Inspect>());
    parts.push_back(std::make_unique<Import>());
    return parts;
  }
  int Run(Console) override { return kExitUsage; }  // never: it has parts
};

}  // namespace

std::unique_ptr<Command> MakeData() { return std::make_unique<Data>(); }

}  // namespace muster::launch
