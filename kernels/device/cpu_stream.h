#pragma once
// The CPU's streams and events behind kernels/device/stream.h. Callers use that header.
#include <memory>
#include <string>

#include "kernels/device/stream.h"

namespace muster::kernels {

std::unique_ptr<EventState> MakeCpuEvent();
std::unique_ptr<StreamState> MakeCpuInlineStream();
std::unique_ptr<StreamState> MakeCpuQueueStream(const std::string& name);

}  // namespace muster::kernels
