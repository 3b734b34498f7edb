// One warp a row of a head: reads part and out, writes out, C elements each.
#include <cmath>

#include "kernels/ops/attention_merge.h"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

template <typename T>
struct MergeRows {
  const T* part;
  const float* part_lse;
  float* out;
  float* lse;
  int64_t part_batch, part_row, out_batch, out_row;  // strides
  int64_t num_rows, num_heads, channels, length, begin;
  int64_t total;  // rows of all heads
};

template <typename T>
__global__ void MergeKernel(MergeRows<T> args) {
  const int64_t index = RowOfThread();  // [B, N, H]: neighbours lie side by side
  if (index >= args.total) return;
  const int64_t head = index % args.num_heads, token = index / args.num_heads;
  const int64_t row = token % args.num_rows, batch = token / args.num_rows;
  const int64_t of_head = batch * args.num_heads + head;
  const float part_lse = args.part_lse[of_head * args.num_rows + row];
  float* lse_at = args.lse + of_head * args.length + args.begin + row;
  const float lse = *lse_at;
  if (part_lse == -INFINITY) return;
  const float both = fmaxf(lse, part_lse) + log1pf(expf(-fabsf(lse - part_lse)));
  const float keep = expf(lse - both), add = expf(part_lse - both);
  const T* part = args.part + batch * args.part_batch + row * args.part_row + head * args.channels;
  float* out =
      args.out + batch * args.out_batch + (args.begin + row) * args.out_row + head * args.channels;
  for (int64_t c = threadIdx.x; c < args.channels; c += kWarp) {
    out[c] = keep * out[c] + add * ToFloat(part[c]);
  }
  __syncwarp();  // all lanes have read lse
  if (threadIdx.x == 0) *lse_at = both;
}

}  // namespace

void AttentionMerge(const AttentionMergeArgs& args, StreamView stream) {
  const char* op = "AttentionMerge";
  CheckArgs(args);
  const Shape& shape = args.part.shape;
  SwitchStorage(op, args.part.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const MergeRows<T> rows{.part = Elements<T>(args.part),
                            .part_lse = Elements<float>(args.part_lse),
                            .out = Elements<float>(args.out),
                            .lse = Elements<float>(args.lse),
                            .part_batch = args.part.strides[0],
                            .part_row = args.part.strides[1],
                            .out_batch = args.out.strides[0],
                            .out_row = args.out.strides[1],
                            .num_rows = shape[1],
                            .num_heads = shape[2],
                            .channels = shape[3],
                            .length = args.out.shape[1],
                            .begin = args.begin,
                            .total = shape[0] * shape[1] * shape[2]};
    Launch(op, stream, MergeKernel<T>, WarpRowShape(rows.total), rows);
  });
}

}  // namespace muster::kernels::cuda
