#pragma once
// The checks with which every op begins, on every device. CheckArgs(args) (declared with each op by
// MUSTER_DECLARE_OP) compares all tensors of an op with its contract and CHECK-fails with the op,
// the argument, what was wanted and what was found. These are the pieces it is written with.
#include "kernels/tensor/tensor.h"

namespace muster::kernels {

// `tensor` is present, contiguous, of this dtype and shape.
void CheckTensor(const char* op, const char* name, const TensorView& tensor, DType dtype,
                 const Shape& shape);
// The same unless `tensor` is null.
void CheckOptional(const char* op, const char* name, const TensorView& tensor, DType dtype,
                   const Shape& shape);
// `tensor` is present, contiguous, of this rank, and fp32, bf16 or fp64. rank -1 is any rank.
void CheckFloating(const char* op, const char* name, const TensorView& tensor, int rank);
// `tensor` is present, contiguous, of this dtype and rank.
void CheckRank(const char* op, const char* name, const TensorView& tensor, DType dtype, int rank);

}  // namespace muster::kernels
