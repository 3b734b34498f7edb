#include "kernels/ops/copy_rows.h"

namespace muster::kernels {
namespace {

void CheckRows(const char* name, const TensorView& x, const Shape& shape) {
  const bool floating =
      x.dtype == DType::kFloat32 || x.dtype == DType::kBFloat16 || x.dtype == DType::kFloat64;
  MUSTER_CHECK(floating && x.rank() == 3 && x.shape == shape)
      << "CopyRows: argument " << name << " wants fp32, bf16 or fp64 " << shape.ToString()
      << ", found " << x.ToString();
  MUSTER_CHECK(x.data != nullptr || x.num_elements() == 0)
      << "CopyRows: argument " << name << " is missing";
  MUSTER_CHECK(shape[2] <= 1 || x.strides[2] == 1)
      << "CopyRows: argument " << name << " wants contiguous rows, found strides "
      << x.strides.ToString() << " for " << x.ToString();
}

}  // namespace

void CheckArgs(const CopyRowsArgs& args) {
  CheckRows("x", args.x, args.x.shape);
  CheckRows("out", args.out, args.x.shape);
}

}  // namespace muster::kernels
