#pragma once
// `muster bench`: gemm, attention, collectives, step.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeBench();

}  // namespace muster::launch
