#pragma once
// muster report: what runs did with their devices, from their ledgers.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeReport();

}  // namespace muster::launch
