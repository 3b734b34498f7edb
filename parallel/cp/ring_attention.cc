#include "parallel/cp/ring_attention.h"

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/attention_merge.h"
#include "kernels/ops/copy_rows.h"
#include "parallel/comm/collectives.h"
#include "parallel/cp/head_views.h"

namespace muster::parallel {
namespace {

using kernels::ArenaPlan;
using kernels::DType;
using kernels::EventView;
using kernels::Lifetime;
using kernels::Shape;
using kernels::StreamView;
using kernels::TensorView;

// The side stream's events.
constexpr int kPacked = 0;   // compute: this rank's block may leave
constexpr int kArrived = 1;  // side: the next step's block is there
constexpr int kUsed = 2;     // compute: done with the step's block, its gradients may go home
constexpr int kHome = 3;     // and 4, side, of even and odd steps: gradients have come home
static_assert(kHome + 2 <= SideStream::kNumEvents);

}  // namespace

void RingAttention::PlanMemory(ArenaPlan& plan, const std::string& name) {
  const auto [B, S, H, K, C, dtype, kernel] = shape_;
  const DType accumulator = kernels::AccumulatorDType(dtype);
  const Shape heads{B, S, H, C}, block{B, S, 2 * K, C}, lse{B, H, S};
  const auto add = [&](TensorView* view, const char* what, DType type, const Shape& shape) {
    plan.Add(view, name + what, type, shape, Lifetime::kScratch);
  };
  add(&blocks_[0], ".block_even", dtype, block);
  add(&blocks_[1], ".block_odd", dtype, block);
  add(&part_, ".part", dtype, heads);
  add(&lse_part_, ".lse_part", accumulator, lse);
  add(&sum_, ".sum", accumulator, heads);
  add(&delta_, ".delta", accumulator, lse);
  add(&d_block_[0], ".d_block_even", dtype, block);
  add(&d_block_[1], ".d_block_odd", dtype, block);
  add(&d_home_[0], ".d_home_even", dtype, block);
  add(&d_home_[1], ".d_home_odd", dtype, block);
  add(&d_kv_sum_, ".d_kv_sum", accumulator, block);
}

RingAttention::Rectangle RingAttention::RectangleOf(int step) const {
  const int source = (group().rank() - step + group().size()) % group().size();
  const int64_t S = shape_.tokens, chunk = S / 2;
  if (source < group().rank()) return {0, S, chunk};
  return {chunk, chunk, S};
}

int64_t RingAttention::NumHomeKeys(int step) const {
  const int maker = (group().rank() + step) % group().size();
  return maker > group().rank() ? shape_.tokens / 2 : shape_.tokens;
}

void RingAttention::Pack(const TensorView& kv, StreamView compute) {
  kernels::CopyRows({.x = AsRows(kv), .out = AsRows(blocks_[0])}, compute);
  compute.Record(side().event(kPacked));
}

absl::Status RingAttention::PassOn(int step, EventView after) {
  const StreamView stream = side().view();
  stream.Wait(after);
  RETURN_IF_ERROR(Shift(Block(step - 1), Block(step), /*distance=*/1, group(), stream));
  stream.Record(side().event(kArrived));
  return absl::OkStatus();
}

void RingAttention::WaitFor(EventView event, const char* what, StreamView compute) const {
  const kernels::Span span(compute, what, kExposedCp);
  compute.Wait(event);
}

absl::Status RingAttention::Forward(const ContextForwardArgs& args, StreamView compute) {
  const int n = group().size();
  const bool in_place = args.out.dtype == sum_.dtype;
  const TensorView sum = in_place ? args.out : sum_, own = in_place ? args.out : part_;
  Pack(args.kv, compute);
  RETURN_IF_ERROR(PassOn(1, side().event(kPacked)));
  kernels::AttentionForward({.q = args.q,
                             .k = KeysOf(args.kv),
                             .v = ValuesOf(args.kv),
                             .out = own,
                             .lse = args.lse,
                             .scale = args.scale,
                             .kernel = shape_.kernel},
                            compute);
  if (!in_place) kernels::CopyRows({.x = AsRows(own), .out = AsRows(sum)}, compute);
  for (int step = 1; step < n; ++step) {
    WaitFor(side().event(kArrived), "wait for keys", compute);
    if (step + 1 < n) RETURN_IF_ERROR(PassOn(step + 1, side().event(kUsed)));
    const Rectangle seen = RectangleOf(step);
    const TensorView kv = Block(step).Slice(1, 0, seen.num_keys);
    const TensorView part =
        Prefix(part_, {shape_.sequences, seen.num_queries, shape_.heads, shape_.head_size});
    const TensorView lse = Prefix(lse_part_, {shape_.sequences, shape_.heads, seen.num_queries});
    kernels::AttentionForward({.q = args.q.Slice(1, seen.first_query, shape_.tokens),
                               .k = KeysOf(kv),
                               .v = ValuesOf(kv),
                               .out = part,
                               .lse = lse,
                               .scale = args.scale,
                               .causal = false,
                               .kernel = shape_.kernel},
                              compute);
    compute.Record(side().event(kUsed));
    kernels::AttentionMerge(
        {.part = part, .part_lse = lse, .out = sum, .lse = args.lse, .begin = seen.first_query},
        compute);
  }
  if (!in_place) kernels::CopyRows({.x = AsRows(sum), .out = AsRows(args.out)}, compute);
  return side().view().status();
}

void RingAttention::BackwardStep(const ContextBackwardArgs& args, int step, StreamView compute) {
  const Rectangle seen = step == 0 ? Rectangle{0, shape_.tokens, shape_.tokens} : RectangleOf(step);
  const auto [first, queries, keys] = seen;
  const auto late = [first = first](const TensorView& x) { return x.Slice(1, first, x.shape[1]); };
  const Shape lse_shape{shape_.sequences, shape_.heads, queries};
  TensorView lse = args.lse;
  if (first > 0) {
    lse = Prefix(lse_part_, lse_shape);
    kernels::CopyRows({.x = args.lse.Slice(2, first, shape_.tokens), .out = lse}, compute);
  }
  const TensorView d_q = Prefix(part_, {shape_.sequences, queries, shape_.heads, shape_.head_size});
  const TensorView d_kv =
      Prefix(d_block_[step % 2], {shape_.sequences, keys, 2 * shape_.kv_heads, shape_.head_size});
  const TensorView kv = step == 0 ? args.kv : Block(step).Slice(1, 0, keys);
  kernels::AttentionBackward({.d_out = late(args.d_out),
                              .q = late(args.q),
                              .k = KeysOf(kv),
                              .v = ValuesOf(kv),
                              .out = late(args.out),
                              .lse = lse,
                              .d_q = d_q,
                              .d_k = KeysOf(d_kv),
                              .d_v = ValuesOf(d_kv),
                              .delta = Prefix(delta_, lse_shape),
                              .scale = args.scale,
                              .causal = step == 0,
                              .deterministic = args.deterministic,
                              .kernel = shape_.kernel},
                             compute);
  compute.Record(side().event(kUsed));
  kernels::CopyRows({.x = AsRows(d_q), .out = AsRows(late(sum_)), .accumulate = step > 0}, compute);
}

absl::Status RingAttention::SendHome(int step) {
  const StreamView stream = side().view();
  const auto keys = [&](const TensorView& buffer, int64_t count) {
    return Prefix(buffer, {shape_.sequences, count, 2 * shape_.kv_heads, shape_.head_size});
  };
  stream.Wait(side().event(kUsed));
  RETURN_IF_ERROR(Shift(keys(d_block_[step % 2], RectangleOf(step).num_keys),
                        keys(d_home_[step % 2], NumHomeKeys(step)), group().size() - step, group(),
                        stream));
  stream.Record(side().event(kHome + step % 2));
  return absl::OkStatus();
}

void RingAttention::AddHome(int step, StreamView compute) {
  WaitFor(side().event(kHome + step % 2), "wait for key gradients", compute);
  const int64_t keys = NumHomeKeys(step);
  const TensorView d_kv =
      Prefix(d_home_[step % 2], {shape_.sequences, keys, 2 * shape_.kv_heads, shape_.head_size});
  kernels::CopyRows(
      {.x = AsRows(d_kv), .out = AsRows(d_kv_sum_).Slice(1, 0, keys), .accumulate = true}, compute);
}

// Buffers of a step are free two steps later: the block when `used`, d_block and d_home because
// compute has added what came home in the step before.
absl::Status RingAttention::Backward(const ContextBackwardArgs& args, StreamView compute) {
  const int n = group().size();
  Pack(args.kv, compute);
  RETURN_IF_ERROR(PassOn(1, side().event(kPacked)));
  BackwardStep(args, 0, compute);
  kernels::CopyRows({.x = AsRows(d_block_[0]), .out = AsRows(d_kv_sum_)}, compute);
  for (int step = 1; step < n; ++step) {
    WaitFor(side().event(kArrived), "wait for keys", compute);
    if (step + 1 < n) RETURN_IF_ERROR(PassOn(step + 1, side().event(kUsed)));
    BackwardStep(args, step, compute);
    RETURN_IF_ERROR(SendHome(step));
    if (step > 1) AddHome(step - 1, compute);
  }
  kernels::CopyRows({.x = AsRows(sum_), .out = AsRows(args.d_q)}, compute);
  AddHome(n - 1, compute);
  kernels::CopyRows({.x = AsRows(d_kv_sum_), .out = AsRows(args.d_kv)}, compute);
  return side().view().status();
}

}  // namespace muster::parallel
