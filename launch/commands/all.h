#pragma once
// The list of muster's commands, in the order of --help. A new one is a file here and a line in
// all.cc.
#include <memory>
#include <vector>

#include "launch/command.h"

namespace muster::launch {

std::vector<std::unique_ptr<Command>> AllCommands();

}  // namespace muster::launch
