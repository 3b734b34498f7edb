// The order of rows by expert, made on the device: a stable counting sort of the choices, and the
// merge of rows that arrive sorted from several sources. Reads the choices twice; a few megabytes
// in all, so the number of launches is what it costs.
//
// The sort cuts the choices into chunks of 256 that do not cross a capacity group:
//   1. a block counts the experts of its chunk;
//   2. a warp an expert walks the chunks in order: how many choices came before in the group (which
//      decides what is dropped) and how many were kept before;
//   3. a block places its chunk: the rank of a choice among equals of its warp comes from a match
//      of the warp's lanes, that of its warp from counts in shared memory.
// Only integers are counted with atomics, so the result does not depend on timing.
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"
#include "kernels/ops/permute.h"

namespace muster::kernels::cuda {
namespace {

constexpr int kChunk = 256;  // choices, one a thread
constexpr int kChunkWarps = kChunk / kWarp;
constexpr int kSharedBytes = 48 * 1024;  // of a block without asking for more
constexpr unsigned kAllLanes = 0xffffffffu;

struct Sort {
  const int32_t* experts;
  int32_t* rows;
  int64_t *counts, *offsets, *dropped;
  int num_experts;
  int64_t num_choices, group_choices, chunks_of_group, num_chunks;
  int64_t capacity;       // of an expert in a group; all choices if it is unlimited
  int32_t* chunk_counts;  // [num_chunks, E]: choices of the chunk
  int32_t* before;        // [num_chunks, E]: choices of the group before the chunk
  int32_t* kept_before;   // [num_chunks, E]: kept choices of all chunks before

  // The first choice of a chunk and its end.
  __device__ int64_t Begin(int64_t chunk) const {
    return chunk / chunks_of_group * group_choices + chunk % chunks_of_group * kChunk;
  }
  __device__ int64_t End(int64_t chunk) const {
    const int64_t group_end = (chunk / chunks_of_group + 1) * group_choices;
    return min(min(Begin(chunk) + kChunk, group_end), num_choices);
  }
};

__global__ void CountKernel(Sort sort) {
  extern __shared__ int32_t count[];  // [E]
  for (int e = threadIdx.x; e < sort.num_experts; e += blockDim.x) count[e] = 0;
  __syncthreads();
  const int64_t chunk = blockIdx.x, choice = sort.Begin(chunk) + threadIdx.x;
  if (choice < sort.End(chunk)) {
    const int32_t expert = sort.experts[choice];
    MUSTER_DEVICE_CHECK(expert >= -1 && expert < sort.num_experts,
                        "SortByExpert: choice %lld is expert %d of %d",
                        static_cast<long long>(choice), expert, sort.num_experts);
    if (expert >= 0) {
      atomicAdd(&count[expert], 1);
    } else {
      atomicAdd(reinterpret_cast<unsigned long long*>(sort.dropped), 1ull);
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < sort.num_experts; e += blockDim.x) {
    sort.chunk_counts[chunk * sort.num_experts + e] = count[e];
  }
}

// The sum over lower lanes, and over all lanes in `total`.
__device__ int64_t ExclusiveWarpSum(int64_t value, int64_t& total) {
  const int lane = threadIdx.x % kWarp;
  int64_t sum = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int64_t below = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += below;
  }
  total = __shfl_sync(kAllLanes, sum, kWarp - 1);
  return sum - value;
}

__global__ void ScanChunksKernel(Sort sort) {
  const int64_t expert = RowOfThread();
  if (expert >= sort.num_experts) return;
  int64_t kept = 0, all = 0;
  for (int64_t group = 0; group < sort.num_chunks; group += sort.chunks_of_group) {
    int64_t in_group = 0;
    for (int64_t first = 0; first < sort.chunks_of_group; first += kWarp) {
      const int64_t in_chunks = first + threadIdx.x;
      const int64_t at = (group + in_chunks) * sort.num_experts + expert;
      const bool exists = in_chunks < sort.chunks_of_group;
      const int64_t count = exists ? sort.chunk_counts[at] : 0;
      int64_t count_total = 0, kept_total = 0;
      const int64_t before = in_group + ExclusiveWarpSum(count, count_total);
      const int64_t room = max(sort.capacity - before, int64_t{0});
      const int64_t kept_before = kept + ExclusiveWarpSum(min(count, room), kept_total);
      if (exists) {
        sort.before[at] = static_cast<int32_t>(before);
        sort.kept_before[at] = static_cast<int32_t>(kept_before);
      }
      in_group += count_total;
      kept += kept_total;
    }
    all += in_group;
  }
  if (threadIdx.x != 0) return;
  sort.counts[expert] = kept;
  if (all > kept) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sort.dropped),
              static_cast<unsigned long long>(all - kept));
  }
}

// offsets[e + 1] = counts[0] + ... + counts[e]; one warp.
__global__ void OffsetsKernel(const int64_t* counts, int64_t* offsets, int num_experts) {
  int64_t start = 0;
  if (threadIdx.x == 0) offsets[0] = 0;
  for (int first = 0; first < num_experts; first += kWarp) {
    const int e = first + threadIdx.x;
    const int64_t count = e < num_experts ? counts[e] : 0;
    int64_t total = 0;
    const int64_t before = start + ExclusiveWarpSum(count, total);
    if (e < num_experts) offsets[e + 1] = before + count;
    start += total;
  }
}

__global__ void PlaceKernel(Sort sort) {
  extern __shared__ int32_t of_warp[];  // [kChunkWarps, E]: choices of each warp
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int i = threadIdx.x; i < kChunkWarps * sort.num_experts; i += blockDim.x) of_warp[i] = 0;
  __syncthreads();
  const int64_t chunk = blockIdx.x, choice = sort.Begin(chunk) + threadIdx.x;
  const bool exists = choice < sort.End(chunk);
  const int32_t expert = exists ? sort.experts[choice] : sort.num_experts;
  const unsigned equals = __match_any_sync(kAllLanes, expert);
  int rank = __popc(equals & ((1u << lane) - 1));
  const bool chosen = exists && expert >= 0;
  if (chosen && rank == 0) of_warp[warp * sort.num_experts + expert] = __popc(equals);
  __syncthreads();
  if (exists && !chosen) sort.rows[choice] = -1;  // dropped before
  if (!chosen) return;
  for (int w = 0; w < warp; ++w) rank += of_warp[w * sort.num_experts + expert];
  const int64_t at = chunk * sort.num_experts + expert;
  const bool kept = sort.before[at] + rank < sort.capacity;
  sort.rows[choice] =
      kept ? static_cast<int32_t>(sort.offsets[expert] + sort.kept_before[at] + rank) : -1;
}

// Where each (source, expert) piece begins, as it arrived and in expert order. One block.
struct Pieces {
  const int64_t* counts;
  int64_t num_sources, num_experts, bound;
  int64_t *offsets, *row_count;
  int64_t* arrival;  // [n * E + 1]
  int64_t* target;   // [n * E], by source, then expert
};

// One warp: the prefix sums run over source, expert, and over expert, source.
__global__ void PiecesKernel(Pieces pieces) {
  const int64_t num_pieces = pieces.num_sources * pieces.num_experts;
  int64_t arrived = 0, placed = 0;
  for (int64_t first = 0; first < num_pieces; first += kWarp) {
    const int64_t i = first + threadIdx.x;
    const bool exists = i < num_pieces;
    const int64_t source = i % pieces.num_sources, expert = i / pieces.num_sources;
    const int64_t by_expert = source * pieces.num_experts + expert;
    int64_t arrived_total = 0, placed_total = 0;
    const int64_t arrival =
        arrived + ExclusiveWarpSum(exists ? pieces.counts[i] : 0, arrived_total);
    const int64_t target =
        placed + ExclusiveWarpSum(exists ? pieces.counts[by_expert] : 0, placed_total);
    if (exists) {
      pieces.arrival[i] = arrival;
      pieces.target[by_expert] = target;
      if (source == 0) pieces.offsets[expert] = target;
    }
    arrived += arrived_total;
    placed += placed_total;
  }
  if (threadIdx.x != 0) return;
  MUSTER_DEVICE_CHECK(placed <= pieces.bound,
                      "MergeSources: %lld rows arrived, the planned bound is %lld",
                      static_cast<long long>(placed), static_cast<long long>(pieces.bound));
  pieces.arrival[num_pieces] = arrived;
  pieces.offsets[pieces.num_experts] = placed;
  *pieces.row_count = placed;
}

struct PlaceArrived {
  Pieces pieces;
  int32_t* index;

  template <int kWidth>
  __device__ void Run(int64_t r) const {
    if (r >= *pieces.row_count) return;
    // The last piece that begins at or before r: empty pieces begin where the next one does.
    int64_t low = 0, high = pieces.num_sources * pieces.num_experts;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (pieces.arrival[middle] <= r ? low : high) = middle;
    }
    index[r] = static_cast<int32_t>(pieces.target[low] + r - pieces.arrival[low]);
  }
};

}  // namespace

void SortByExpert(const SortByExpertArgs& args, StreamView stream) {
  const char* op = "SortByExpert";
  CheckArgs(args);
  const int64_t num_choices = args.experts.num_elements(), num_experts = args.counts.shape[0];
  MUSTER_CHECK(num_choices < (int64_t{1} << 31)) << op << ": " << num_choices << " choices";
  const int64_t shared_bytes = kChunkWarps * num_experts * static_cast<int64_t>(sizeof(int32_t));
  if (shared_bytes > kSharedBytes) {
    return FailUnimplemented(op, std::to_string(num_experts) + " experts", stream);
  }
  const int64_t group_choices = args.capacity > 0 ? args.group_tokens * args.experts.shape[1]
                                                  : std::max<int64_t>(num_choices, 1);
  const int64_t chunks_of_group = CeilDiv(group_choices, kChunk);
  const int64_t num_chunks = CeilDiv(num_choices, group_choices) * chunks_of_group;
  Scratch scratch(stream);
  const Sort sort{.experts = Elements<int32_t>(args.experts),
                  .rows = Elements<int32_t>(args.rows),
                  .counts = Elements<int64_t>(args.counts),
                  .offsets = Elements<int64_t>(args.offsets),
                  .dropped = Elements<int64_t>(args.dropped),
                  .num_experts = static_cast<int>(num_experts),
                  .num_choices = num_choices,
                  .group_choices = group_choices,
                  .chunks_of_group = chunks_of_group,
                  .num_chunks = num_chunks,
                  .capacity = args.capacity > 0 ? args.capacity : num_choices,
                  .chunk_counts = scratch.Take<int32_t>(num_chunks * num_experts),
                  .before = scratch.Take<int32_t>(num_chunks * num_experts),
                  .kept_before = scratch.Take<int32_t>(num_chunks * num_experts)};
  if (!scratch.Fits(op, stream)) return;
  FillZeroAsync(sort.dropped, sizeof(int64_t), stream);
  const LaunchShape chunks{
      .blocks = num_chunks, .threads_x = kChunk, .shared_bytes = static_cast<int>(shared_bytes)};
  Launch(op, stream, CountKernel, chunks, sort);
  Launch(op, stream, ScanChunksKernel, WarpRowShape(num_experts), sort);
  Launch(op, stream, OffsetsKernel, LaunchShape{.blocks = 1, .threads_x = kWarp}, sort.counts,
         sort.offsets, sort.num_experts);
  Launch(op, stream, PlaceKernel, chunks, sort);
}

void MergeSources(const MergeSourcesArgs& args, StreamView stream) {
  const char* op = "MergeSources";
  CheckArgs(args);
  const int64_t num_pieces = args.counts.num_elements();
  Scratch scratch(stream);
  const Pieces pieces{.counts = Elements<int64_t>(args.counts),
                      .num_sources = args.counts.shape[0],
                      .num_experts = args.counts.shape[1],
                      .bound = args.index.shape[0],
                      .offsets = Elements<int64_t>(args.offsets),
                      .row_count = Elements<int64_t>(args.row_count),
                      .arrival = scratch.Take<int64_t>(num_pieces + 1),
                      .target = scratch.Take<int64_t>(num_pieces)};
  if (!scratch.Fits(op, stream)) return;
  Launch(op, stream, PiecesKernel, LaunchShape{.blocks = 1, .threads_x = kWarp}, pieces);
  RunFlat<1>(op, pieces.bound, {}, PlaceArrived{pieces, Elements<int32_t>(args.index)}, stream);
}

}  // namespace muster::kernels::cuda
