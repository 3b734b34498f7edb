#include "kernels/ops/grouped_matmul.h"

#include "kernels/ops/check_args.h"

namespace muster::kernels {
namespace {

// The shapes all three share: rows_in [R, in], rows_out [R, out], weights [E, N, K].
void CheckGroups(const char* op, const TensorView& d_y_or_y, const TensorView& x,
                 const TensorView& w, DType w_dtype, const TensorView& offsets) {
  CheckFloating(op, "x or d_x", x, 2);
  CheckRank(op, "w or d_w", w, w_dtype, 3);
  const int64_t num_rows = x.shape[0];
  CheckTensor(op, "x or d_x", x, x.dtype, {num_rows, w.shape[2]});
  CheckTensor(op, "y or d_y", d_y_or_y, x.dtype, {num_rows, w.shape[1]});
  CheckTensor(op, "offsets", offsets, DType::kInt64, {w.shape[0] + 1});
}

}  // namespace

void CheckArgs(const GroupedMatmulForwardArgs& args) {
  CheckGroups("GroupedMatmulForward", args.y, args.x, args.w, args.x.dtype, args.offsets);
}

void CheckArgs(const GroupedMatmulBackwardInputArgs& args) {
  CheckGroups("GroupedMatmulBackwardInput", args.d_y, args.d_x, args.w, args.d_x.dtype,
              args.offsets);
}

void CheckArgs(const GroupedMatmulBackwardWeightArgs& args) {
  CheckGroups("GroupedMatmulBackwardWeight", args.d_y, args.x, args.d_w,
              AccumulatorDType(args.x.dtype), args.offsets);
}

}  // namespace muster::kernels
