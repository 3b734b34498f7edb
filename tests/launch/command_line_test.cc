#include "launch/command_line.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "launch/commands/all.h"
#include "launch/exit_codes.h"

namespace muster::launch {
namespace {

struct Outcome {
  int code = -1;
  std::string out, err;
};

// Records what it was given; "paint" has the part "wall".
class Paint : public Command {
 public:
  explicit Paint(std::string name) : name_(std::move(name)) {}
  CommandText text() const override { return {name_, "paints", "", "muster " + name_ + " red"}; }
  void Declare(CLI::App& app) override {
    app.add_option("COLOUR", colour_, "what to paint with")->required();
    app.add_option("--coats", coats_, "how many")->type_name("N");
  }
  int Run(Console console) override {
    if (colour_ == "nothing") throw std::runtime_error("no paint");
    console.out << name_ << " " << colour_ << " x" << coats_;
    return colour_ == "wet" ? kExitRequeue : kExitDone;
  }

 private:
  std::string name_, colour_;
  int coats_ = 1;
};

class House : public Command {
 public:
  CommandText text() const override { return {"house", "its parts", "", "muster house wall red"}; }
  std::vector<std::unique_ptr<Command>> Parts() override {
    std::vector<std::unique_ptr<Command>> parts;
    parts.push_back(std::make_unique<Paint>("wall"));
    parts.push_back(std::make_unique<Paint>("ceiling"));
    return parts;
  }
  int Run(Console) override {
    ADD_FAILURE() << "a command with parts was run";
    return 0;
  }
};

Outcome Give(const std::vector<std::string>& arguments) {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<Paint>("paint"));
  commands.push_back(std::make_unique<House>());
  std::ostringstream out, err;
  Outcome outcome;
  outcome.code = RunCommandLine(arguments, std::move(commands), {out, err});
  outcome.out = out.str();
  outcome.err = err.str();
  return outcome;
}

TEST(CommandLine, RunsTheNamedCommandWithItsOptions) {
  const Outcome outcome = Give({"paint", "red", "--coats", "3"});
  EXPECT_EQ(outcome.code, kExitDone);
  EXPECT_EQ(outcome.out, "paint red x3");
  EXPECT_EQ(Give({"house", "wall", "--coats=2", "blue"}).out, "wall blue x2");
}

TEST(CommandLine, ReturnsTheCommandsExitCode) {
  EXPECT_EQ(Give({"paint", "wet"}).code, kExitRequeue);
}

TEST(CommandLine, ACommandsNameMayBeAnArgument) {
  EXPECT_EQ(Give({"paint", "house"}).out, "paint house x1");
  EXPECT_EQ(Give({"house", "wall", "ceiling"}).out, "wall ceiling x1");
}

TEST(CommandLine, UnknownNamesGetTheNearestAndExitCodeTwo) {
  const struct {
    std::vector<std::string> arguments;
    const char* message;
  } kCases[] = {
      {{"piant", "red"}, "muster: unknown command 'piant' (did you mean 'paint'?)"},
      {{"zzz"}, "muster: unknown command 'zzz'\n"},
      {{"paint", "red", "--coat", "2"}, "unknown option '--coat' (did you mean '--coats'?)"},
      {{"paint", "--caots=2", "red"}, "unknown option '--caots' (did you mean '--coats'?)"},
      {{"paint", "red", "-x"}, "muster paint: unknown option '-x'"},
      {{"--versoin"}, "muster: unknown option '--versoin' (did you mean '--version'?)"},
      {{"house", "celing"}, "muster house: unknown command 'celing' (did you mean 'ceiling'?)"},
      {{"paint", "red", "blue"}, "muster paint: one argument too many: 'blue'"},
      {{"paint"}, "muster paint: COLOUR"},
      {{"paint", "red", "--coats", "many"}, "--coats"},
      {{"house"}, "muster house: no command given"},
      {{}, "muster: no command given"},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = Give(test.arguments);
    EXPECT_EQ(outcome.code, kExitUsage) << test.message;
    EXPECT_EQ(outcome.out, "") << test.message;
    EXPECT_NE(outcome.err.find(test.message), std::string::npos)
        << "wanted: " << test.message << "\nfound: " << outcome.err;
    EXPECT_NE(outcome.err.find("--help'"), std::string::npos) << outcome.err;
  }
}

TEST(CommandLine, HelpWorksEverywhereAndShowsAnExample) {
  const std::vector<std::vector<std::string>> kLines = {
      {"--help"}, {"-h"}, {"paint", "--help"}, {"house", "-h"}, {"house", "wall", "--help"}};
  for (const auto& arguments : kLines) {
    const Outcome outcome = Give(arguments);
    EXPECT_EQ(outcome.code, kExitDone);
    EXPECT_NE(outcome.out.find("Usage: muster"), std::string::npos);
    EXPECT_NE(outcome.out.find("Example:\n  "), std::string::npos);
    EXPECT_EQ(outcome.err, "");
  }
  EXPECT_NE(Give({"house", "wall", "--help"}).out.find("Usage: muster house wall COLOUR [OPTIONS]"),
            std::string::npos);
}

TEST(CommandLine, HelpListsEveryExitCode) {
  const std::string help = Give({"--help"}).out;
  for (const ExitCodeText& text : kExitCodeTexts) {
    std::string code = std::to_string(text.code);
    code.resize(2, ' ');
    EXPECT_NE(help.find("  " + code + "  " + text.meaning + "\n"), std::string::npos) << text.code;
  }
}

TEST(CommandLine, PrintsItsVersion) {
  const Outcome outcome = Give({"--version"});
  EXPECT_EQ(outcome.code, kExitDone);
  EXPECT_EQ(outcome.out.rfind("muster 0.", 0), 0u) << outcome.out;
}

TEST(CommandLine, AnExceptionOfALibraryIsAnOrdinaryFailure) {
  const Outcome outcome = Give({"paint", "nothing"});
  EXPECT_EQ(outcome.code, kExitFailure);
  EXPECT_NE(outcome.err.find("no paint"), std::string::npos);
}

// Every --help text, in one: the command line is frozen, since scripts rely on it.
void AppendHelp(const std::vector<std::string>& path, std::vector<std::unique_ptr<Command>> parts,
                std::string* text) {
  std::vector<std::string> arguments = path;
  arguments.push_back("--help");
  std::ostringstream out, err;
  EXPECT_EQ(RunCommandLine(arguments, AllCommands(), {out, err}), kExitDone);
  EXPECT_EQ(err.str(), "");
  *text += "$ muster";
  for (const std::string& argument : arguments) *text += " " + argument;
  *text += "\n" + out.str() + "\n";
  for (const std::unique_ptr<Command>& part : parts) {
    std::vector<std::string> longer = path;
    longer.push_back(part->text().name);
    AppendHelp(longer, part->Parts(), text);
  }
}

TEST(CommandLine, HelpIsFrozen) {
  std::string help;
  AppendHelp({}, AllCommands(), &help);
  const std::string frozen_path = MUSTER_SOURCE_DIR "/tests/golden/help.txt";
  std::ifstream file(frozen_path);
  std::ostringstream frozen;
  frozen << file.rdbuf();
  if (help == frozen.str()) return;
  const std::string now_path = MUSTER_BINARY_DIR "/help.txt";
  std::ofstream(now_path) << help;
  ADD_FAILURE() << "the command line has changed:\n  diff " << frozen_path << " " << now_path
                << "\nIf that is meant, and no script breaks, copy the second over the first.";
}

TEST(CommandLine, EveryExampleIsALineOfItsOwnCommand) {
  for (const std::unique_ptr<Command>& command : AllCommands()) {
    const CommandText text = command->text();
    EXPECT_NE(text.example.find("muster " + text.name), std::string::npos) << text.name;
    EXPECT_FALSE(text.summary.empty());
  }
}

}  // namespace
}  // namespace muster::launch
