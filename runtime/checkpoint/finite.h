#pragma once
// Numbers in host memory that are not finite. A state that has one is never saved.
#include <cstdint>
#include <optional>

#include "kernels/base/dtype.h"

namespace muster::runtime {

// The index of the first NaN or infinity among `count` elements; none in integers.
std::optional<int64_t> FirstNonFinite(const void* data, kernels::DType dtype, int64_t count);

}  // namespace muster::runtime
