#pragma once
#include <memory>

#include "launch/command.h"

namespace muster::launch {

// muster sample RUN --prompt TEXT: continues a prompt with a finished run's weights.
std::unique_ptr<Command> MakeSample();

}  // namespace muster::launch
