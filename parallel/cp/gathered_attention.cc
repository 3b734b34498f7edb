#include "parallel/cp/gathered_attention.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/copy_rows.h"
#include "parallel/comm/collectives.h"
#include "parallel/cp/head_views.h"

namespace muster::parallel {

using kernels::ArenaPlan;
using kernels::DType;
using kernels::Lifetime;
using kernels::Shape;
using kernels::StreamView;
using kernels::TensorView;

void GatheredAttention::PlanMemory(ArenaPlan& plan, const std::string& name) {
  const auto [B, S, H, K, C, dtype, kernel] = shape_;
  const int64_t n = group().size();
  const DType accumulator = kernels::AccumulatorDType(dtype);
  const auto add = [&](TensorView* view, const char* what, DType type, const Shape& shape) {
    plan.Add(view, name + what, type, shape, Lifetime::kScratch);
  };
  add(&by_rank_, ".kv_by_rank", dtype, {n, B, S, 2 * K, C});
  add(&ordered_, ".kv", dtype, {B, n * S, 2 * K, C});
  add(&delta_, ".delta", accumulator, {B, H, S / 2});
  add(&d_ordered_, ".d_kv_part", dtype, {B, n * S, 2 * K, C});
  add(&d_by_rank_, ".d_kv_by_rank", accumulator, {n, B, S, 2 * K, C});
  add(&d_kv_, ".d_kv_sum", accumulator, {B, S, 2 * K, C});
}

int64_t GatheredAttention::ChunkOf(int half) const {
  return half == 0 ? group().rank() : num_chunks() - 1 - group().rank();
}

TensorView GatheredAttention::InOrder(const TensorView& ordered, int64_t chunk) const {
  return AsRows(ordered).Slice(1, chunk * chunk_tokens(), (chunk + 1) * chunk_tokens());
}

TensorView GatheredAttention::ByRank(const TensorView& by_rank, int64_t chunk) const {
  const int64_t owner = std::min(chunk, num_chunks() - 1 - chunk);
  const TensorView block =
      by_rank.Slice(0, owner, owner + 1)
          .Reshape({shape_.sequences, shape_.tokens, 2 * shape_.kv_heads, shape_.head_size});
  return InOrder(block, chunk == owner ? 0 : 1);
}

absl::Status GatheredAttention::Gather(const TensorView& kv, StreamView compute) {
  const TensorView own = by_rank_.Slice(0, group().rank(), group().rank() + 1);
  const TensorView rows =
      own.Reshape({shape_.sequences, shape_.tokens, 2 * shape_.kv_heads * shape_.head_size});
  kernels::CopyRows({.x = AsRows(kv), .out = rows}, compute);
  RETURN_IF_ERROR(AllGather(own, by_rank_, group(), compute));
  for (int64_t chunk = 0; chunk < num_chunks(); ++chunk) {
    kernels::CopyRows({.x = ByRank(by_rank_, chunk), .out = InOrder(ordered_, chunk)}, compute);
  }
  return absl::OkStatus();
}

absl::Status GatheredAttention::Forward(const ContextForwardArgs& args, StreamView compute) {
  RETURN_IF_ERROR(Gather(args.kv, compute));
  const int64_t c = chunk_tokens();
  const TensorView lse = args.lse.Reshape({2, shape_.sequences, shape_.heads, c});
  for (int half = 0; half < 2; ++half) {
    const TensorView kv = ordered_.Slice(1, 0, (ChunkOf(half) + 1) * c);
    kernels::AttentionForward(
        {.q = args.q.Slice(1, half * c, (half + 1) * c),
         .k = KeysOf(kv),
         .v = ValuesOf(kv),
         .out = args.out.Slice(1, half * c, (half + 1) * c),
         .lse = lse.Slice(0, half, half + 1).Reshape({shape_.sequences, shape_.heads, c}),
         .scale = args.scale,
         .q_begin = ChunkOf(half) * c,
         .kernel = shape_.kernel},
        compute);
  }
  return absl::OkStatus();
}

void GatheredAttention::BackwardHalf(const ContextBackwardArgs& args, int half,
                                     StreamView compute) {
  const int64_t c = chunk_tokens(), chunk = ChunkOf(half);
  const auto queries = [&](const TensorView& x) { return x.Slice(1, half * c, (half + 1) * c); };
  const TensorView lse = args.lse.Reshape({2, shape_.sequences, shape_.heads, c});
  const TensorView kv = ordered_.Slice(1, 0, (chunk + 1) * c);
  const TensorView d_kv = d_ordered_.Slice(1, 0, (chunk + 1) * c);
  kernels::AttentionBackward(
      {.d_out = queries(args.d_out),
       .q = queries(args.q),
       .k = KeysOf(kv),
       .v = ValuesOf(kv),
       .out = queries(args.out),
       .lse = lse.Slice(0, half, half + 1).Reshape({shape_.sequences, shape_.heads, c}),
       .d_q = queries(args.d_q),
       .d_k = KeysOf(d_kv),
       .d_v = ValuesOf(d_kv),
       .delta = delta_,
       .scale = args.scale,
       .q_begin = chunk * c,
       .deterministic = args.deterministic,
       .kernel = shape_.kernel},
      compute);
  for (int64_t seen = 0; seen <= chunk; ++seen) {
    kernels::CopyRows(
        {.x = InOrder(d_ordered_, seen), .out = ByRank(d_by_rank_, seen), .accumulate = true},
        compute);
  }
}

absl::Status GatheredAttention::Backward(const ContextBackwardArgs& args, StreamView compute) {
  RETURN_IF_ERROR(Gather(args.kv, compute));
  kernels::FillZeroAsync(d_by_rank_, compute);
  for (int half = 0; half < 2; ++half) BackwardHalf(args, half, compute);
  RETURN_IF_ERROR(ReduceScatter(d_by_rank_, d_kv_, ReduceOp::kSum, group(), compute));
  kernels::CopyRows({.x = AsRows(d_kv_), .out = AsRows(args.d_kv)}, compute);
  return absl::OkStatus();
}

}  // namespace muster::parallel
