#pragma once
#include <cstdint>

#include "kernels/device/span.h"

namespace muster::runtime {

// Since a reading of kernels::MonotonicNs().
inline double SecondsSince(int64_t begin_ns) {
  return static_cast<double>(kernels::MonotonicNs() - begin_ns) * 1e-9;
}

}  // namespace muster::runtime
