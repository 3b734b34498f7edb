#pragma once
// muster check: everything that is wrong with a job's config, at once and offline; or what it
// means.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeCheck();

}  // namespace muster::launch
