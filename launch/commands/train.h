#pragma once
#include <memory>

#include "launch/command.h"

namespace muster::launch {

// muster train CONFIG: one rank of a job; alone, or under mpirun or srun.
std::unique_ptr<Command> MakeTrain();

}  // namespace muster::launch
