// One Matmul per expert that has rows.
#include "kernels/ops/grouped_matmul.h"

#include "kernels/base/error.h"
#include "kernels/ops/matmul.h"

namespace muster::kernels::cpu {
namespace {

// Calls body(expert, begin, end) for each expert with rows. The offsets come from the router of
// this very step: a wrong one would write outside the tensors.
template <typename Body>
void ForEachGroup(const TensorView& offsets, int64_t num_rows, Body&& body) {
  const int64_t* offset = offsets.as<int64_t>();
  MUSTER_CHECK_EQ(offset[0], 0) << "the first offset of a grouped matmul";
  for (int64_t e = 0; e + 1 < offsets.shape[0]; ++e) {
    const int64_t begin = offset[e], end = offset[e + 1];
    MUSTER_CHECK(begin <= end && end <= num_rows)
        << "expert " << e << " owns rows [" << begin << ", " << end << ") of " << num_rows;
    if (begin < end) body(e, begin, end);
  }
}

// Expert e's matrix of [E, N, K].
TensorView ExpertMatrix(const TensorView& w, int64_t e) {
  const int64_t n = w.shape[1], k = w.shape[2];
  return TensorView(w.Slice(0, e, e + 1).data, w.dtype, {n, k}, w.device);
}

}  // namespace

void GroupedMatmulForward(const GroupedMatmulForwardArgs& args) {
  CheckArgs(args);
  ForEachGroup(args.offsets, args.x.shape[0], [&](int64_t e, int64_t begin, int64_t end) {
    Matmul({.a = args.x.Slice(0, begin, end),
            .b = ExpertMatrix(args.w, e),
            .c = args.y.Slice(0, begin, end),
            .b_transposed = true});
  });
}

void GroupedMatmulBackwardInput(const GroupedMatmulBackwardInputArgs& args) {
  CheckArgs(args);
  ForEachGroup(args.offsets, args.d_y.shape[0], [&](int64_t e, int64_t begin, int64_t end) {
    Matmul({.a = args.d_y.Slice(0, begin, end),
            .b = ExpertMatrix(args.w, e),
            .c = args.d_x.Slice(0, begin, end)});
  });
}

void GroupedMatmulBackwardWeight(const GroupedMatmulBackwardWeightArgs& args) {
  CheckArgs(args);
  ForEachGroup(args.offsets, args.x.shape[0], [&](int64_t e, int64_t begin, int64_t end) {
    Matmul({.a = args.d_y.Slice(0, begin, end),
            .b = args.x.Slice(0, begin, end),
            .c = ExpertMatrix(args.d_w, e),
            .a_transposed = true,
            .accumulate = true});
  });
}

}  // namespace muster::kernels::cpu
