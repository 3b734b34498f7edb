#pragma once
// From the dtype of a tensor, known at run time, to a type known at compile time.
#include "kernels/base/dtype.h"
#include "kernels/base/error.h"

namespace muster::kernels::cpu {

// Calls body(T{}) with the storage type T of `dtype`: float, BFloat16 or double. CHECK-fails for
// integers. The body names the type with `using T = decltype(tag);`.
template <typename Body>
void SwitchStorage(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat64:
      return body(double{});
    case DType::kInt32:
    case DType::kInt64:
    case DType::kUInt8:
      break;
  }
  MUSTER_CHECK(false) << "wanted fp32, bf16 or fp64, found " << Name(dtype);
}

// The same for tensors in an accumulator dtype: float or double.
template <typename Body>
void SwitchAccumulator(DType dtype, Body&& body) {
  if (dtype == DType::kFloat32) return body(float{});
  if (dtype == DType::kFloat64) return body(double{});
  MUSTER_CHECK(false) << "wanted fp32 or fp64, found " << Name(dtype);
}

}  // namespace muster::kernels::cpu
