#pragma once
// A subcommand of muster: what it says about itself, which options it declares, what it does.
// launch/commands/<name>.cc holds one each; launch/commands/all.cc lists them.
#include <memory>
#include <ostream>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace muster::launch {

// Where a command writes: results to `out`, errors and progress to `err`.
struct Console {
  std::ostream& out;
  std::ostream& err;
};

struct CommandText {
  std::string name;     // "check"
  std::string summary;  // one line, for the list of commands
  std::string details;  // more lines for its own --help; may be empty
  std::string example;  // a command line that works, without "$ "
};

class Command {
 public:
  virtual ~Command() = default;
  virtual CommandText text() const = 0;
  // Adds options and positionals; what they are bound to are members of the command.
  virtual void Declare(CLI::App& app) { (void)app; }
  // Subcommands ("data" has prepare, inspect, import). A command with parts is never run itself.
  virtual std::vector<std::unique_ptr<Command>> Parts() { return {}; }
  // Does the work after a successful parse; returns the exit code (launch/exit_codes.h). It says
  // on console.err why, if that is not kExitDone.
  virtual int Run(Console console) = 0;
};

}  // namespace muster::launch
