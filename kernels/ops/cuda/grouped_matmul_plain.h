#pragma once
// Grouped products for what the tensor-core kernels do not do: fp32, and bf16 rows that do not
// begin on 16 bytes. Plain tiles in fp32 arithmetic; deterministic. Errors, left in the stream:
// fp64, a failed launch.
#include "kernels/ops/grouped_matmul.h"

namespace muster::kernels::cuda {

void PlainGroupedForward(const GroupedMatmulForwardArgs& args, StreamView stream);
void PlainGroupedBackwardInput(const GroupedMatmulBackwardInputArgs& args, StreamView stream);
void PlainGroupedBackwardWeight(const GroupedMatmulBackwardWeightArgs& args, StreamView stream);

}  // namespace muster::kernels::cuda
