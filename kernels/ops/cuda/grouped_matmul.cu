// Grouped products in bf16 on the tensor cores. The host does not know the groups: it launches as
// many blocks as any offsets may need (one more row of tiles per expert than rows fill), and each
// block finds its expert from the offsets on the device, or leaves. 2 rows N K FLOPs in all; the
// weights of an expert are read once per 128 of its rows, through the second-level cache.
//
// Shapes whose rows do not begin on 16 bytes, and fp32, take the plain kernels.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "kernels/base/error.h"
#include "kernels/ops/cuda/grouped_matmul_plain.h"
#include "kernels/ops/cuda/grouped_tiles.cuh"
#include "kernels/ops/grouped_matmul.h"

namespace muster::kernels::cuda {
namespace {

__device__ int64_t Clamp(int64_t value, int64_t limit) {
  return value < 0 ? 0 : value > limit ? limit : value;
}

// Rows [begin, end) of one expert's tile of rows; expert < 0: there is no such tile.
struct RowTile {
  int64_t expert, begin, end;
};

// Tile `tile` of the rows, counted expert by expert. All lanes of a warp call this together: they
// count the tiles of 32 experts at a time by a prefix sum. Offsets are clamped to num_rows, so that
// wrong ones cannot reach outside the tensors.
__device__ RowTile FindRowTile(const int64_t* offsets, int64_t num_experts, int64_t num_rows,
                               int64_t tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int64_t first = 0; first < num_experts; first += kWarpSize) {
    const int64_t expert = first + lane;
    const bool exists = expert < num_experts;
    const int64_t begin = exists ? Clamp(offsets[expert], num_rows) : 0;
    const int64_t end = exists ? Clamp(offsets[expert + 1], num_rows) : 0;
    const int own = end > begin ? static_cast<int>((end - begin + kTileOuter - 1) / kTileOuter) : 0;
    int up_to = own;  // tiles of the experts up to this lane's
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, up_to, step);
      if (lane >= step) up_to += before;
    }
    const unsigned holders = __ballot_sync(0xffffffffu, tile < up_to);
    if (holders != 0) {
      const int holder = __ffs(static_cast<int>(holders)) - 1;
      const int64_t start = begin + (tile - (up_to - own)) * kTileOuter;
      return {first + holder, __shfl_sync(0xffffffffu, start, holder),
              __shfl_sync(0xffffffffu, end, holder)};
    }
    tile -= __shfl_sync(0xffffffffu, up_to, kWarpSize - 1);
  }
  return {-1, 0, 0};
}

// out_r = w_e^(T) in_r: in [R, K], out [R, N], w [E, N, K] or, reduction first, [E, K, N].
struct RowsArgs {
  const __nv_bfloat16 *in, *w;
  __nv_bfloat16* out;
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
  const __nv_bfloat16* w = args.w + rows.expert * args.n * args.k;
  const Operand b = {w + (kWReductionFirst ? column : column * args.k),
                     kWReductionFirst ? args.n : args.k, args.n - column, args.k};
  Sums sums = {};
  MultiplyOperands<false, kWReductionFirst>(sums, a, b, args.k,
                                            reinterpret_cast<__nv_bfloat16*>(shared));
  ForEachPair(sums, [&](int r, int c, float value, float next) {
    if (rows.begin + r >= rows.end || column + c >= args.n) return;
    auto* out =
        reinterpret_cast<__nv_bfloat162*>(args.out + (rows.begin + r) * args.n + column + c);
    *out = __floats2bfloat162_rn(value, next);
  });
}

// d_w_e += sum_r d_y_r x_r^T: d_y [R, N], x [R, K], d_w [E, N, K].
struct WeightArgs {
  const __nv_bfloat16 *d_y, *x;
  float* d_w;
  const int64_t* offsets;
  int64_t num_rows, n, k, row_tiles, column_tiles;
};

__global__ void __launch_bounds__(kTileThreads, 2) WeightKernel(WeightArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t expert = blockIdx.x / (args.row_tiles * args.column_tiles);
  const int64_t row = blockIdx.x / args.column_tiles % args.row_tiles * kTileOuter;
  const int64_t column = blockIdx.x % args.column_tiles * kTileOuter;
  const int64_t begin = Clamp(args.offsets[expert], args.num_rows);
  const int64_t count = Clamp(args.offsets[expert + 1], args.num_rows) - begin;
  if (count <= 0) return;
  const Operand a = {args.d_y + begin * args.n + row, args.n, args.n - row, count};
  const Operand b = {args.x + begin * args.k + column, args.k, args.k - column, count};
  Sums sums = {};
  MultiplyOperands<true, true>(sums, a, b, count, reinterpret_cast<__nv_bfloat16*>(shared));
  float* d_w = args.d_w + (expert * args.n + row) * args.k + column;
  ForEachPair(sums, [&](int r, int c, float value, float next) {
    if (row + r >= args.n || column + c >= args.k) return;
    auto* pair = reinterpret_cast<float2*>(d_w + r * args.k + c);
    const float2 before = *pair;
    *pair = {before.x + value, before.y + next};
  });
}

int64_t Tiles(int64_t size) { return (size + kTileOuter - 1) / kTileOuter; }

bool IsAligned(const TensorView& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.shape[x.rank() - 1] % kChunk == 0;
}

template <typename Args>
absl::Status Launch(void (*kernel)(Args), int shared_bytes, int64_t blocks, const Args& args,
                    StreamView stream) {
  if (blocks == 0) return absl::OkStatus();
  MUSTER_CHECK(blocks <= INT32_MAX) << blocks << " blocks of a grouped matmul";
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error == cudaSuccess) {
    kernel<<<static_cast<unsigned>(blocks), kTileThreads, shared_bytes,
             static_cast<cudaStream_t>(stream.native_handle())>>>(args);
    error = cudaGetLastError();
  }
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(std::string("launching a grouped matmul: ") +
                             cudaGetErrorString(error));
}

// For the forward (w [E, N, K]) and the input gradient, whose w [E, K, N] is reduction first.
template <bool kWReductionFirst>
absl::Status LaunchRows(const TensorView& in, const TensorView& w, const TensorView& out,
                        const TensorView& offsets, StreamView stream) {
  if (out.num_elements() == 0) return absl::OkStatus();
  const int64_t num_rows = in.shape[0], num_experts = w.shape[0], n = out.shape[1];
  const RowsArgs args = {.in = static_cast<const __nv_bfloat16*>(in.data),
                         .w = static_cast<const __nv_bfloat16*>(w.data),
                         .out = static_cast<__nv_bfloat16*>(out.data),
                         .offsets = offsets.as<int64_t>(),
                         .num_rows = num_rows,
                         .num_experts = num_experts,
                         .n = n,
                         .k = in.shape[1],
                         .column_tiles = Tiles(n)};
  // Each expert wastes less than one tile of rows.
  const int64_t row_tiles = std::min(num_rows / kTileOuter + num_experts, num_rows);
  return Launch(&RowsKernel<kWReductionFirst>, kTilesBytes<false, kWReductionFirst>,
                row_tiles * args.column_tiles, args, stream);
}

bool IsFp64(const char* op, DType dtype, StreamView stream) {
  if (dtype != DType::kFloat64) return false;
  stream.Fail(
      absl::UnimplementedError(std::string(op) + " of fp64 runs on CPU only; wanted fp32 or bf16"));
  return true;
}
void FailIfBad(const absl::Status& status, StreamView stream) {
  if (!status.ok()) stream.Fail(status);
}

}  // namespace

void GroupedMatmulForward(const GroupedMatmulForwardArgs& args, StreamView stream) {
  CheckArgs(args);
  if (IsFp64("GroupedMatmulForward", args.x.dtype, stream)) return;
  const bool tiled = args.x.dtype == DType::kBFloat16 && IsAligned(args.x) && IsAligned(args.w) &&
                     IsAligned(args.y);
  FailIfBad(tiled ? LaunchRows<false>(args.x, args.w, args.y, args.offsets, stream)
                  : PlainGroupedForward(args, stream),
            stream);
}

void GroupedMatmulBackwardInput(const GroupedMatmulBackwardInputArgs& args, StreamView stream) {
  CheckArgs(args);
  if (IsFp64("GroupedMatmulBackwardInput", args.d_y.dtype, stream)) return;
  const bool tiled = args.d_y.dtype == DType::kBFloat16 && IsAligned(args.d_y) &&
                     IsAligned(args.w) && IsAligned(args.d_x);
  FailIfBad(tiled ? LaunchRows<true>(args.d_y, args.w, args.d_x, args.offsets, stream)
                  : PlainGroupedBackwardInput(args, stream),
            stream);
}

void GroupedMatmulBackwardWeight(const GroupedMatmulBackwardWeightArgs& args, StreamView stream) {
  CheckArgs(args);
  if (IsFp64("GroupedMatmulBackwardWeight", args.x.dtype, stream)) return;
  const bool tiled = args.x.dtype == DType::kBFloat16 && IsAligned(args.d_y) && IsAligned(args.x) &&
                     IsAligned(args.d_w);
  if (!tiled) {
    FailIfBad(PlainGroupedBackwardWeight(args, stream), stream);
    return;
  }
  const int64_t n = args.d_w.shape[1], k = args.d_w.shape[2];
  const WeightArgs weight = {.d_y = static_cast<const __nv_bfloat16*>(args.d_y.data),
                             .x = static_cast<const __nv_bfloat16*>(args.x.data),
                             .d_w = args.d_w.as<float>(),
                             .offsets = args.offsets.as<int64_t>(),
                             .num_rows = args.x.shape[0],
                             .n = n,
                             .k = k,
                             .row_tiles = Tiles(n),
                             .column_tiles = Tiles(k)};
  const int64_t blocks = args.d_w.shape[0] * weight.row_tiles * weight.column_tiles;
  FailIfBad(Launch(&WeightKernel, kTilesBytes<true, true>, blocks, weight, stream), stream);
}

}  // namespace muster::kernels::cuda
