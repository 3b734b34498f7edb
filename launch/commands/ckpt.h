#pragma once
// muster ckpt: the checkpoints of a run, and whether they are whole.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeCkpt();

}  // namespace muster::launch
