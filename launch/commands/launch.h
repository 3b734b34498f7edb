#pragma once
// muster launch: a job under a supervisor that restarts it.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeLaunch();

}  // namespace muster::launch
