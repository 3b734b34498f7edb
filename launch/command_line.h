#pragma once
// muster's command line: finds the subcommand, parses its options, runs it. Whatever is wrong with
// the line is reported with the nearest name that exists, and costs exit code 2.
#include <memory>
#include <string>
#include <vector>

#include "launch/command.h"

namespace muster::launch {

// `arguments` without the program's name. --help and --version are answered on console.out. Returns
// the exit code; exceptions of libraries end here, as kExitFailure.
int RunCommandLine(const std::vector<std::string>& arguments,
                   std::vector<std::unique_ptr<Command>> commands, Console console);

}  // namespace muster::launch
