#pragma once
// muster doctor: what this host has, what is missing, what to install.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeDoctor();

}  // namespace muster::launch
