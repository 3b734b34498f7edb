#pragma once
// The arithmetic of the host backend's reductions: contributions are combined in rank order, in the
// accumulator dtype (fp32 for bf16), and rounded once. Each element's result depends on that
// element's n inputs only, so no split of a message changes a bit.
#include <cstdint>

#include "kernels/base/dtype.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

// out[i] = sources[0][i] op sources[1][i] op ...; `count` elements of fp32, bf16, fp64, int32 or
// int64. `out` may be one of the sources. kMax keeps NaN. Integer sums wrap.
void ReduceInRankOrder(kernels::DType dtype, ReduceOp op, const void* const* sources,
                       int num_sources, void* out, int64_t count);

}  // namespace muster::parallel
