#include "kernels/ops/attention.h"

#include "kernels/ops/attention_merge.h"
#include "kernels/ops/check_args.h"

namespace muster::kernels {
namespace {

// [B, S, heads, C], contiguous in the last two dims; the token and batch strides are free.
void CheckHeads(const char* op, const char* name, const TensorView& x, DType dtype,
                const Shape& shape) {
  MUSTER_CHECK(x.dtype == dtype && x.shape == shape)
      << op << ": argument " << name << " wants " << Name(dtype) << shape.ToString() << ", found "
      << x.ToString();
  MUSTER_CHECK(x.data != nullptr || x.num_elements() == 0)
      << op << ": argument " << name << " is missing";
  const int64_t heads = shape[2], head_size = shape[3];
  MUSTER_CHECK((head_size <= 1 || x.strides[3] == 1) && (heads <= 1 || x.strides[2] == head_size) &&
               (shape[1] <= 1 || x.strides[1] >= heads * head_size))
      << op << ": argument " << name << " wants contiguous heads, found strides "
      << x.strides.ToString() << " for " << x.ToString();
}

// The shapes that forward and backward share.
template <typename Args>
void CheckInputs(const char* op, const Args& args) {
  const TensorView& q = args.q;
  MUSTER_CHECK(q.rank() == 4 && args.k.rank() == 4 && args.v.rank() == 4)
      << op << " wants q, k and v of 4 dims, found " << q.ToString() << ", " << args.k.ToString()
      << " and " << args.v.ToString();
  MUSTER_CHECK(q.dtype == DType::kFloat32 || q.dtype == DType::kBFloat16 ||
               q.dtype == DType::kFloat64)
      << op << ": argument q wants fp32, bf16 or fp64, found " << q.ToString();
  const int64_t batch = q.shape[0], heads = q.shape[2], head_size = q.shape[3];
  const int64_t kv_heads = args.k.shape[2];
  MUSTER_CHECK(kv_heads > 0 && heads % kv_heads == 0)
      << op << ": " << heads << " query heads do not divide among " << kv_heads
      << " key/value heads";
  const int64_t num_keys = args.k.shape[1], value_head_size = args.v.shape[3];
  CheckHeads(op, "q", q, q.dtype, q.shape);
  CheckHeads(op, "k", args.k, q.dtype, {batch, num_keys, kv_heads, head_size});
  CheckHeads(op, "v", args.v, q.dtype, {batch, num_keys, kv_heads, value_head_size});
  CheckHeads(op, "out", args.out, q.dtype, {batch, q.shape[1], heads, value_head_size});
  CheckTensor(op, "lse", args.lse, AccumulatorDType(q.dtype), {batch, heads, q.shape[1]});
}

}  // namespace

void CheckArgs(const AttentionForwardArgs& args) { CheckInputs("AttentionForward", args); }

void CheckArgs(const AttentionBackwardArgs& args) {
  constexpr const char* kOp = "AttentionBackward";
  CheckInputs(kOp, args);
  const DType dtype = args.q.dtype;
  CheckHeads(kOp, "d_out", args.d_out, dtype, args.out.shape);
  CheckHeads(kOp, "d_q", args.d_q, dtype, args.q.shape);
  CheckHeads(kOp, "d_k", args.d_k, dtype, args.k.shape);
  CheckHeads(kOp, "d_v", args.d_v, dtype, args.v.shape);
  CheckTensor(kOp, "delta", args.delta, args.lse.dtype, args.lse.shape);
}

void CheckArgs(const AttentionMergeArgs& args) {
  constexpr const char* kOp = "AttentionMerge";
  MUSTER_CHECK(args.part.rank() == 4 && args.out.rank() == 4)
      << kOp << " wants part and out of 4 dims, found " << args.part.ToString() << " and "
      << args.out.ToString();
  const Shape& part = args.part.shape;
  const int64_t length = args.out.shape[1];
  const DType accumulator = AccumulatorDType(args.part.dtype);
  CheckHeads(kOp, "part", args.part, args.part.dtype, part);
  CheckHeads(kOp, "out", args.out, accumulator, {part[0], length, part[2], part[3]});
  CheckTensor(kOp, "part_lse", args.part_lse, accumulator, {part[0], part[2], part[1]});
  CheckTensor(kOp, "lse", args.lse, accumulator, {part[0], part[2], length});
  MUSTER_CHECK(args.begin >= 0 && args.begin + part[1] <= length)
      << kOp << ": rows " << args.begin << " to " << args.begin + part[1] << " of " << length;
}

}  // namespace muster::kernels
