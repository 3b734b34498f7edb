#pragma once
// rank_order_reduce.h's reduction on a CUDA device. Sources are added rank by rank in the
// accumulator dtype. Integer sums wrap; kMax keeps NaN.
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "kernels/device/stream.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

// out[i] = sources[0][i] op sources[1][i] op ... for i < count; source r begins r * stride elements
// after `sources`. `out` may not overlap them. Moves (num_sources + 1) count elements.
absl::Status ReduceOnDevice(kernels::DType dtype, ReduceOp op, const void* sources, int64_t stride,
                            int num_sources, void* out, int64_t count, kernels::StreamView stream);

// out[i] = the sum over all ranks, of which `others` has those of the ranks but `rank`, one after
// another, count elements each, and `own` that of `rank`. `out` may be `own`. Moves
// (num_others + 2) count elements.
absl::Status SumWithOwn(kernels::DType dtype, const void* own, int rank, const void* others,
                        int num_others, void* out, int64_t count, kernels::StreamView stream);

}  // namespace muster::parallel
