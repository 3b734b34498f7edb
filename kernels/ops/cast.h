#pragma once
// Conversions and initial values.
#include "kernels/base/rng.h"
#include "kernels/ops/op.h"

namespace muster::kernels {

// out = x in out's dtype (fp32, bf16, fp64), rounded to nearest even.
struct CastArgs {
  TensorView x;    // any shape, contiguous
  TensorView out;  // the same shape
};
MUSTER_DECLARE_OP(Cast)

struct FillArgs {
  TensorView x;  // out: fp32, bf16 or fp64
  double value = 0;
};
MUSTER_DECLARE_OP(Fill)

// x[i] = std * normal(key, global index of i): the same values on every layout and device. x is
// elements [begin, begin + size) of each dim of a global tensor. A number is drawn per element,
// from its row-major global index.
struct FillNormalArgs {
  TensorView x;        // out, any shape, contiguous: fp32, bf16 or fp64
  Shape global_shape;  // the same rank
  Shape begin;         // the same rank
  PhiloxKey key;
  float std = 0.02f;
};
MUSTER_DECLARE_OP(FillNormal)

}  // namespace muster::kernels
