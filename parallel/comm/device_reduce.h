#pragma once
// rank_order_reduce.h's reduction on a CUDA device.
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/device/stream.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

// out[i] = sources[0][i] op sources[1][i] op ..., rank by rank in the accumulator dtype, for
// i < count; source r begins r * stride elements after `sources`. `out` may not overlap them.
// kMax keeps NaN. Integer sums wrap. Moves (num_sources + 1) count elements.
absl::Status ReduceOnDevice(kernels::DType dtype, ReduceOp op, const void* sources, int64_t stride,
                            int num_sources, void* out, int64_t count, kernels::StreamView stream);

}  // namespace muster::parallel
