#pragma once
// muster data: text to tokens, a look at token files, and the way from other trainers' formats.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeData();

}  // namespace muster::launch
