#pragma once
// Grouped products for what the tensor-core kernels do not do: fp32, and bf16 rows that do not
// begin on 16 bytes. Plain tiles in fp32 arithmetic; deterministic.
#include "absl/status/status.h"
#include "kernels/ops/grouped_matmul.h"

namespace muster::kernels::cuda {

absl::Status PlainGroupedForward(const GroupedMatmulForwardArgs& args, StreamView stream);
absl::Status PlainGroupedBackwardInput(const GroupedMatmulBackwardInputArgs& args,
                                       StreamView stream);
absl::Status PlainGroupedBackwardWeight(const GroupedMatmulBackwardWeightArgs& args,
                                        StreamView stream);

}  // namespace muster::kernels::cuda
