#pragma once
// muster hang: the collective logs that a failed run left, laid side by side.
#include <memory>

#include "launch/command.h"

namespace muster::launch {

std::unique_ptr<Command> MakeHang();

}  // namespace muster::launch
