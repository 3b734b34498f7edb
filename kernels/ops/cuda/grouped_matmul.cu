// Grouped products in bf16 on the tensor cores. The host does not know the groups: it launches as
// many blocks as any offsets may need (one more row of tiles per expert than rows fill), and each
// block finds its expert from the offsets on the device, or leaves. 2 rows N K FLOPs in all; the
// weights of an expert are read once per 128 of its rows, through the second-level cache.
//
// Shapes whose rows do not begin on 16 bytes, and fp32, take the plain kernels.
#include <algorithm>

#include "kernels/ops/cuda/group_rows.cuh"
#include "kernels/ops/cuda/grouped_matmul_plain.h"
#include "kernels/ops/cuda/grouped_tiles.cuh"
#include "kernels/ops/cuda/launch.cuh"
#include "kernels/ops/grouped_matmul.h"

namespace muster::kernels::cuda {
namespace {

// Rows [begin, end) of one expert's tile of rows; expert < 0: there is no such tile.
struct RowTile {
  int64_t expert, begin, end;
};

// Tile `tile` of the rows, counted expert by expert. All lanes of a warp call this together: they
// count the tiles of 32 experts at a time by a prefix sum.
__device__ RowTile FindRowTile(const int64_t* offsets, int64_t num_experts, int64_t num_rows,
                               int64_t tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t first = 0; first < num_experts; first += kWarp) {
    const int64_t expert = first + lane;
    const GroupRows rows =
        expert < num_experts ? RowsOfExpert(offsets, expert, num_rows) : GroupRows{0, 0};
    const int own = static_cast<int>((rows.end - rows.begin + kTileOuter - 1) / kTileOuter);
    int up_to = own;  // tiles of the experts up to this lane's
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, up_to, step);
      if (lane >= step) up_to += before;
    }
    const unsigned holders = __ballot_sync(0xffffffffu, tile < up_to);
    if (holders != 0) {
      const int holder = __ffs(static_cast<int>(holders)) - 1;
      const int64_t start = rows.begin + (tile - (up_to - own)) * kTileOuter;
      return {first + holder, __shfl_sync(0xffffffffu, start, holder),
              __shfl_sync(0xffffffffu, rows.end, holder)};
    }
    tile -= __shfl_sync(0xffffffffu, up_to, kWarp - 1);
  }
  return {-1, 0, 0};
}

// out_r = w_e^(T) in_r: in [R, K], out [R, N], w [E, N, K] or, reduction first, [E, K, N].
struct RowsArgs {
  const BF16 *in, *w;
  BF16* out;
  const int64_t* offsets;
  int64_t num_rows, num_experts, n, k, column_tiles;
};

template <bool kWReductionFirst>
__global__ void __launch_bounds__(kTileThreads, 2) RowsKernel(RowsArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t column = blockIdx.x % args.column_tiles * kTileOuter;
  const RowTile rows =
      FindRowTile(args.offsets, args.num_experts, args.num_rows, blockIdx.x / args.column_tiles);
  if (rows.expert < 0) return;
  const Operand a = {args.in + rows.begin * args.k, args.k, rows.end - rows.begin, args.k};
  const BF16* w = args.w + rows.expert * args.n * args.k;
  const Operand b = {w + (kWReductionFirst ? column : column * args.k),
                     kWReductionFirst ? args.n : args.k, args.n - column, args.k};
  Sums sums = {};
  MultiplyOperands<false, kWReductionFirst>(sums, a, b, args.k, reinterpret_cast<BF16*>(shared));
  ForEachPair(sums, [&](int r, int c, float value, float next) {
    if (rows.begin + r >= rows.end || column + c >= args.n) return;
    auto* out =
        reinterpret_cast<__nv_bfloat162*>(args.out + (rows.begin + r) * args.n + column + c);
    *out = __floats2bfloat162_rn(value, next);
  });
}

// d_w_e += sum_r d_y_r x_r^T: d_y [R, N], x [R, K], d_w [E, N, K].
struct WeightArgs {
  const BF16 *d_y, *x;
  float* d_w;
  const int64_t* offsets;
  int64_t num_rows, n, k, row_tiles, column_tiles;
};

__global__ void __launch_bounds__(kTileThreads, 2) WeightKernel(WeightArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t expert = blockIdx.x / (args.row_tiles * args.column_tiles);
  const int64_t row = blockIdx.x / args.column_tiles % args.row_tiles * kTileOuter;
  const int64_t column = blockIdx.x % args.column_tiles * kTileOuter;
  const GroupRows rows = RowsOfExpert(args.offsets, expert, args.num_rows);
  const int64_t begin = rows.begin, count = rows.end - rows.begin;
  if (count == 0) return;
  const Operand a = {args.d_y + begin * args.n + row, args.n, args.n - row, count};
  const Operand b = {args.x + begin * args.k + column, args.k, args.k - column, count};
  Sums sums = {};
  MultiplyOperands<true, true>(sums, a, b, count, reinterpret_cast<BF16*>(shared));
  float* d_w = args.d_w + (expert * args.n + row) * args.k + column;
  ForEachPair(sums, [&](int r, int c, float value, float next) {
    if (row + r >= args.n || column + c >= args.k) return;
    auto* pair = reinterpret_cast<float2*>(d_w + r * args.k + c);
    const float2 before = *pair;
    *pair = {before.x + value, before.y + next};
  });
}

bool IsTiled(DType dtype, std::initializer_list<const TensorView*> tensors) {
  bool tiled = dtype == DType::kBFloat16;
  for (const TensorView* x : tensors) {
    tiled = tiled && x->shape[x->rank() - 1] % kChunk == 0 && CanVectorize(0, {x->data});
  }
  return tiled;
}

template <typename Args>
void LaunchTiles(const char* op, void (*kernel)(Args), int shared_bytes, int64_t blocks,
                 const Args& args, StreamView stream) {
  MakeCurrent(stream.device());
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) {
    stream.Fail(absl::InternalError(std::string(op) + " wants " + std::to_string(shared_bytes) +
                                    " bytes of shared memory: " + cudaGetErrorString(error)));
    return;
  }
  Launch(op, stream, kernel,
         {.blocks = blocks, .threads_x = kTileThreads, .shared_bytes = shared_bytes}, args);
}

// For the forward (w [E, N, K]) and the input gradient, whose w [E, K, N] is reduction first.
template <bool kWReductionFirst>
void LaunchRows(const char* op, const TensorView& in, const TensorView& w, const TensorView& out,
                const TensorView& offsets, StreamView stream) {
  const int64_t num_rows = in.shape[0], num_experts = w.shape[0], n = out.shape[1];
  const RowsArgs args = {.in = Elements<const BF16>(in),
                         .w = Elements<const BF16>(w),
                         .out = Elements<BF16>(out),
                         .offsets = offsets.as<int64_t>(),
                         .num_rows = num_rows,
                         .num_experts = num_experts,
                         .n = n,
                         .k = in.shape[1],
                         .column_tiles = CeilDiv(n, kTileOuter)};
  // Each expert wastes less than one tile of rows.
  const int64_t row_tiles = std::min(num_rows / kTileOuter + num_experts, num_rows);
  LaunchTiles(op, &RowsKernel<kWReductionFirst>, kTilesBytes<false, kWReductionFirst>,
              row_tiles * args.column_tiles, args, stream);
}

}  // namespace

void GroupedMatmulForward(const GroupedMatmulForwardArgs& args, StreamView stream) {
  CheckArgs(args);
  if (IsTiled(args.x.dtype, {&args.x, &args.w, &args.y})) {
    LaunchRows<false>("GroupedMatmulForward", args.x, args.w, args.y, args.offsets, stream);
  } else {
    PlainGroupedForward(args, stream);
  }
}

void GroupedMatmulBackwardInput(const GroupedMatmulBackwardInputArgs& args, StreamView stream) {
  CheckArgs(args);
  if (IsTiled(args.d_y.dtype, {&args.d_y, &args.w, &args.d_x})) {
    LaunchRows<true>("GroupedMatmulBackwardInput", args.d_y, args.w, args.d_x, args.offsets,
                     stream);
  } else {
    PlainGroupedBackwardInput(args, stream);
  }
}

void GroupedMatmulBackwardWeight(const GroupedMatmulBackwardWeightArgs& args, StreamView stream) {
  CheckArgs(args);
  if (!IsTiled(args.x.dtype, {&args.d_y, &args.x, &args.d_w})) {
    PlainGroupedBackwardWeight(args, stream);
    return;
  }
  const int64_t n = args.d_w.shape[1], k = args.d_w.shape[2];
  const WeightArgs weight = {.d_y = Elements<const BF16>(args.d_y),
                             .x = Elements<const BF16>(args.x),
                             .d_w = args.d_w.as<float>(),
                             .offsets = args.offsets.as<int64_t>(),
                             .num_rows = args.x.shape[0],
                             .n = n,
                             .k = k,
                             .row_tiles = CeilDiv(n, kTileOuter),
                             .column_tiles = CeilDiv(k, kTileOuter)};
  LaunchTiles("GroupedMatmulBackwardWeight", &WeightKernel, kTilesBytes<true, true>,
              args.d_w.shape[0] * weight.row_tiles * weight.column_tiles, weight, stream);
}

}  // namespace muster::kernels::cuda
