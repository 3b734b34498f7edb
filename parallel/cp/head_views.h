#pragma once
// Views that both ways of context-parallel attention take of their tensors.
#include "kernels/tensor/tensor.h"

namespace muster::parallel {

// [B, S, heads, C] with contiguous heads as rows [B, S, heads C], for kernels::CopyRows.
inline kernels::TensorView AsRows(const kernels::TensorView& x) {
  kernels::TensorView rows = x;
  rows.shape = {x.shape[0], x.shape[1], x.shape[2] * x.shape[3]};
  rows.strides = {x.strides[0], x.strides[1], 1};
  return rows;
}

// The first elements of a contiguous buffer, in another shape.
inline kernels::TensorView Prefix(const kernels::TensorView& buffer, kernels::Shape shape) {
  return buffer.Reshape({buffer.num_elements()}).Slice(0, 0, shape.num_elements()).Reshape(shape);
}

inline kernels::TensorView KeysOf(const kernels::TensorView& kv) {
  return kv.Slice(2, 0, kv.shape[2] / 2);
}
inline kernels::TensorView ValuesOf(const kernels::TensorView& kv) {
  return kv.Slice(2, kv.shape[2] / 2, kv.shape[2]);
}

}  // namespace muster::parallel
