// Token and position embedding. Forward: a block copies a token's row (2 numbers an element, 3 with
// positions). Backward: gradients of equal tokens are added in token order without float atomics.
//   1. A token's place among its equals is drawn from an integer counter; the first to draw owns
//      the row. Equals get a region of a list; which region depends on timing, what ends up in it
//      does not:
//   2. within its region each token's final place is the number of smaller ones. A token is
//      compared with its equals if those are few (kFewEquals): at most kFewEquals T comparisons. A
//      longer region is listed by a block that walks all T tokens in order; there are at most
//      T / kFewEquals of those.
//   3. The owner's blocks walk the region in order and add to the table's row, which is read and
//      written once. In all d_out once, and 8 bytes an element of the rows that occur.
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/embedding.h"

namespace muster::kernels::cuda {
namespace {

template <typename T>
struct Lookup {
  const int32_t* tokens;
  const T *table, *position_table;
  const int32_t* positions;
  T* out;
  int64_t num_rows, num_positions, dim, vocab_begin;
};

template <typename T, int kWidth>
__global__ void LookupKernel(Lookup<T> lookup) {
  const int64_t t = blockIdx.x, row = lookup.tokens[t] - lookup.vocab_begin;
  const bool owned = row >= 0 && row < lookup.num_rows;
  const T* position_row = nullptr;
  if (lookup.position_table != nullptr) {
    const int64_t position = lookup.positions[t];
    MUSTER_DEVICE_CHECK(position >= 0 && position < lookup.num_positions,
                        "EmbeddingForward: position %lld of token %lld is outside the table",
                        static_cast<long long>(position), static_cast<long long>(t));
    position_row = lookup.position_table + position * lookup.dim;
  }
  for (int64_t d = threadIdx.x * kWidth; d < lookup.dim; d += blockDim.x * kWidth) {
    float sum[kWidth] = {};
    if (owned) LoadFloats(lookup.table + row * lookup.dim + d, sum);
    if (position_row != nullptr) {
      float position[kWidth];
      LoadFloats(position_row + d, position);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += position[i];
    }
    StoreFloats(lookup.out + t * lookup.dim + d, sum);
  }
}

constexpr int32_t kFewEquals = 1024;
// Of rows that have more than kFewEquals tokens each.
constexpr int64_t MostLongRows(int64_t num_tokens) { return num_tokens / (kFewEquals + 1); }

// The groups of equal indices, in the stream's workspace.
struct Groups {
  const int32_t* indices;
  int64_t num_tokens, num_rows, first_row;
  int32_t* count;     // [num_rows]: tokens of each row
  int32_t* begin;     // [num_rows]: its region of the lists; of rows that occur
  int32_t* next;      // [1]: where the next region begins
  int32_t* place;     // [num_tokens]: drawn; 0 is the owner
  int32_t* unsorted;  // [num_tokens]: tokens by region
  int32_t* sorted;    // [num_tokens]: tokens by region, rising within each
  int32_t* num_long;  // [1]: rows of more than kFewEquals tokens
  int32_t* long_row;  // [MostLongRows(num_tokens)]: those, in any order

  // Of this shard, or -1.
  __device__ int64_t RowOf(int64_t t) const {
    const int64_t row = indices[t] - first_row;
    return row >= 0 && row < num_rows ? row : -1;
  }
};

struct DrawPlace {
  Groups groups;
  template <int kWidth>
  __device__ void Run(int64_t t) const {
    const int64_t row = groups.RowOf(t);
    if (row >= 0) groups.place[t] = atomicAdd(&groups.count[row], 1);
  }
};

struct ClaimRegion {
  Groups groups;
  template <int kWidth>
  __device__ void Run(int64_t t) const {
    const int64_t row = groups.RowOf(t);
    if (row < 0 || groups.place[t] != 0) return;
    const int32_t count = groups.count[row];
    groups.begin[row] = atomicAdd(groups.next, count);
    if (count > kFewEquals) {
      groups.long_row[atomicAdd(groups.num_long, 1)] = static_cast<int32_t>(row);
    }
  }
};

struct ListTokens {
  Groups groups;
  template <int kWidth>
  __device__ void Run(int64_t t) const {
    const int64_t row = groups.RowOf(t);
    if (row >= 0) groups.unsorted[groups.begin[row] + groups.place[t]] = static_cast<int32_t>(t);
  }
};

struct SortShortRegion {
  Groups groups;
  template <int kWidth>
  __device__ void Run(int64_t t) const {
    const int64_t row = groups.RowOf(t);
    if (row < 0 || groups.count[row] > kFewEquals) return;
    const int32_t* region = groups.unsorted + groups.begin[row];
    int32_t smaller = 0;
    for (int32_t i = 0; i < groups.count[row]; ++i) smaller += region[i] < t;
    groups.sorted[groups.begin[row] + smaller] = static_cast<int32_t>(t);
  }
};

// A block lists one long row's tokens. Each warp looks at kLooks x 32 tokens at a time, each lane
// at every 32nd; what the warps before it found in the same round comes before its own.
constexpr int kListWarps = kMaxThreads / kWarp, kLooks = 8;
__global__ void __launch_bounds__(kMaxThreads) ListLongRegionKernel(Groups groups) {
  __shared__ int32_t found_by[kListWarps];
  if (static_cast<int32_t>(blockIdx.x) >= *groups.num_long) return;
  const int32_t row = groups.long_row[blockIdx.x];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int32_t* list = groups.sorted + groups.begin[row];
  int32_t listed = 0;
  for (int64_t begin = 0; begin < groups.num_tokens; begin += kListWarps * kLooks * kWarp) {
    const int64_t first = begin + int64_t{warp} * kLooks * kWarp + lane;
    unsigned equal[kLooks];
    int32_t found = 0;
#pragma unroll
    for (int look = 0; look < kLooks; ++look) {
      const int64_t t = first + look * kWarp;
      const bool is_equal = t < groups.num_tokens && groups.RowOf(t) == row;
      equal[look] = __ballot_sync(0xffffffffu, is_equal);
      found += __popc(equal[look]);
    }
    if (lane == 0) found_by[warp] = found;
    __syncthreads();
    int32_t place = listed;
    for (int other = 0; other < kListWarps; ++other) {
      place += other < warp ? found_by[other] : 0;
      listed += found_by[other];
    }
#pragma unroll
    for (int look = 0; look < kLooks; ++look) {
      const unsigned before = equal[look] & ((1u << lane) - 1);
      if (equal[look] >> lane & 1) {
        list[place + __popc(before)] = static_cast<int32_t>(first + look * kWarp);
      }
      place += __popc(equal[look]);
    }
    __syncthreads();  // found_by has been read
  }
}

// blockIdx.x: token, whose block works only if the token owns its row; blockIdx.y: columns.
template <typename T, int kWidth>
__global__ void AddRowsKernel(Groups groups, const T* d_out, float* d_table, int64_t dim) {
  const int64_t row = groups.RowOf(blockIdx.x);
  if (row < 0 || groups.place[blockIdx.x] != 0) return;
  const int64_t d = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kWidth;
  if (d >= dim) return;
  const int32_t* tokens = groups.sorted + groups.begin[row];
  const int32_t count = groups.count[row];
  float sum[kWidth];
  LoadFloats(d_table + row * dim + d, sum);
#pragma unroll 8
  for (int32_t i = 0; i < count; ++i) {
    float values[kWidth];
    LoadFloats(d_out + tokens[i] * dim + d, values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum[j] += values[j];
  }
  StoreFloats(d_table + row * dim + d, sum);
}

// Steps 1 and 2; false, with the stream's error, if the workspace is too small.
bool GroupTokens(const EmbeddingBackwardArgs& args, Groups& groups, StreamView stream) {
  const char* op = "EmbeddingBackward";
  const int64_t num_tokens = args.indices.shape[0], num_rows = args.d_table.shape[0];
  MUSTER_CHECK(num_tokens < (int64_t{1} << 31)) << op << ": " << num_tokens << " tokens";
  Scratch scratch(stream);
  groups = {.indices = Elements<int32_t>(args.indices),
            .num_tokens = num_tokens,
            .num_rows = num_rows,
            .first_row = args.vocab_begin,
            .count = scratch.Take<int32_t>(num_rows + 2),
            .begin = scratch.Take<int32_t>(num_rows),
            .next = nullptr,
            .place = scratch.Take<int32_t>(num_tokens),
            .unsorted = scratch.Take<int32_t>(num_tokens),
            .sorted = scratch.Take<int32_t>(num_tokens),
            .num_long = nullptr,
            .long_row = scratch.Take<int32_t>(MostLongRows(num_tokens))};
  if (!scratch.Fits(op, stream)) return false;
  groups.next = groups.count + num_rows;
  groups.num_long = groups.next + 1;
  FillZeroAsync(groups.count, (num_rows + 2) * static_cast<int64_t>(sizeof(int32_t)), stream);
  RunFlat<1>(op, num_tokens, {}, DrawPlace{groups}, stream);
  RunFlat<1>(op, num_tokens, {}, ClaimRegion{groups}, stream);
  RunFlat<1>(op, num_tokens, {}, ListTokens{groups}, stream);
  RunFlat<1>(op, num_tokens, {}, SortShortRegion{groups}, stream);
  Launch(op, stream, &ListLongRegionKernel,
         {.blocks = MostLongRows(num_tokens), .threads_x = kMaxThreads}, groups);
  return true;
}

}  // namespace

void EmbeddingForward(const EmbeddingForwardArgs& args, StreamView stream) {
  CheckArgs(args);
  SwitchStorage("EmbeddingForward", args.table.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    const Lookup<T> lookup{.tokens = Elements<int32_t>(args.tokens),
                           .table = Elements<T>(args.table),
                           .position_table = Elements<T>(args.position_table),
                           .positions = Elements<int32_t>(args.positions),
                           .out = Elements<T>(args.out),
                           .num_rows = args.table.shape[0],
                           .num_positions = args.position_table ? args.position_table.shape[0] : 0,
                           .dim = args.table.shape[1],
                           .vocab_begin = args.vocab_begin};
    const bool vectorize = CanVectorize(lookup.dim * static_cast<int64_t>(sizeof(T)),
                                        {lookup.table, lookup.position_table, lookup.out});
    SwitchWidth<T>(vectorize, [&](auto width) {
      Launch("EmbeddingForward", stream, LookupKernel<T, width()>,
             RowLoopShape(args.tokens.shape[0], lookup.dim / width()), lookup);
    });
  });
}

void EmbeddingBackward(const EmbeddingBackwardArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t num_tokens = args.d_out.shape[0], dim = args.d_out.shape[1];
  if (num_tokens == 0 || dim == 0 || args.d_table.shape[0] == 0) return;
  SwitchStorage("EmbeddingBackward", args.d_out.dtype, stream, [&](auto tag) {
    using T = decltype(tag);
    Groups groups;
    if (!GroupTokens(args, groups, stream)) return;
    const bool vectorize =
        CanVectorize(dim * static_cast<int64_t>(sizeof(T)), {args.d_out.data, args.d_table.data});
    SwitchWidth<T>(vectorize, [&](auto width) {
      LaunchShape shape = RowLoopShape(num_tokens, dim / width());
      shape.blocks_y = static_cast<int>(CeilDiv(dim / width(), shape.threads_x));
      Launch("EmbeddingBackward", stream, AddRowsKernel<T, width()>, shape, groups,
             Elements<T>(args.d_out), Elements<float>(args.d_table), dim);
    });
  });
}

}  // namespace muster::kernels::cuda
