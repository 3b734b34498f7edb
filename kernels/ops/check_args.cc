#include "kernels/ops/check_args.h"

namespace muster::kernels {
namespace {

// Runs in front of every launch: text is made only on failure.
void CheckPresent(const char* op, const char* name, const TensorView& tensor) {
  MUSTER_CHECK(tensor.data != nullptr || tensor.num_elements() == 0)
      << op << ": argument " << name << " is missing";
  MUSTER_CHECK(tensor.IsContiguous())
      << op << ": argument " << name << " wants contiguous elements, found " << tensor.ToString()
      << " with strides " << tensor.strides.ToString();
}

}  // namespace

void CheckTensor(const char* op, const char* name, const TensorView& tensor, DType dtype,
                 const Shape& shape) {
  MUSTER_CHECK(tensor.dtype == dtype && tensor.shape == shape)
      << op << ": argument " << name << " wants " << Name(dtype) << shape.ToString() << ", found "
      << tensor.ToString();
  CheckPresent(op, name, tensor);
}

void CheckOptional(const char* op, const char* name, const TensorView& tensor, DType dtype,
                   const Shape& shape) {
  if (tensor) CheckTensor(op, name, tensor, dtype, shape);
}

void CheckFloating(const char* op, const char* name, const TensorView& tensor, int rank) {
  const bool floating = tensor.dtype == DType::kFloat32 || tensor.dtype == DType::kBFloat16 ||
                        tensor.dtype == DType::kFloat64;
  MUSTER_CHECK(floating && (rank < 0 || tensor.rank() == rank))
      << op << ": argument " << name << " wants fp32, bf16 or fp64 of " << rank << " dims, found "
      << tensor.ToString();
  CheckPresent(op, name, tensor);
}

void CheckRank(const char* op, const char* name, const TensorView& tensor, DType dtype, int rank) {
  MUSTER_CHECK(tensor.dtype == dtype && tensor.rank() == rank)
      << op << ": argument " << name << " wants " << Name(dtype) << " of " << rank
      << " dims, found " << tensor.ToString();
  CheckPresent(op, name, tensor);
}

}  // namespace muster::kernels
