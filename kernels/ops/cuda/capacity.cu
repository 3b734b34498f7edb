// Places of experts in sequences that several ranks share. A block takes a sequence, a thread some
// experts: it walks the sequence's choices in order and counts those of its own, so every choice of
// this rank is written by one thread and nothing depends on timing. All threads read the same
// choice at a time; 256 of them are brought into shared memory at once.
#include "kernels/ops/capacity.h"
#include "kernels/ops/cuda/launch.cuh"

namespace muster::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct Admission {
  const int32_t* all;
  int32_t* out;
  int64_t ranks, rank_rows, top_k, run, chunk, num_rows, sequence_tokens;
  int64_t num_experts, capacity, rank, first_row;
  int rounds;  // experts of a thread

  // Where choice i of the sequence whose rows begin at `first` lies among all; in `own`, where it
  // lies in `out`, or -1.
  __device__ int64_t Place(int64_t first, int64_t i, int64_t& own) const {
    const int64_t position = i / top_k, c = position / chunk;
    const bool front = c < ranks;
    const int64_t of = front ? c : 2 * ranks - 1 - c;
    const int64_t row = first + (front ? 0 : chunk) + position % chunk;
    const int64_t mine = row - first_row;
    own = of == rank && mine >= 0 && mine < num_rows ? mine * top_k + i % top_k : -1;
    return (of * rank_rows + row) * top_k + i % top_k;
  }
};

__global__ void AdmitKernel(Admission admission) {
  __shared__ int32_t experts[kThreads];
  __shared__ int64_t owns[kThreads];
  const int64_t first = blockIdx.x * admission.run;
  const int64_t num_choices = admission.sequence_tokens * admission.top_k;
  for (int round = 0; round < admission.rounds; ++round) {
    const int64_t mine = static_cast<int64_t>(round) * kThreads + threadIdx.x;
    int64_t taken = 0;
    for (int64_t begin = 0; begin < num_choices; begin += kThreads) {
      __syncthreads();
      const int64_t i = begin + threadIdx.x;
      if (i < num_choices) {
        experts[threadIdx.x] = admission.all[admission.Place(first, i, owns[threadIdx.x])];
      }
      __syncthreads();
      const int count = static_cast<int>(min(num_choices - begin, static_cast<int64_t>(kThreads)));
      for (int j = 0; j < count; ++j) {
        if (experts[j] != mine) continue;
        const bool admitted = taken++ < admission.capacity;
        if (owns[j] >= 0) admission.out[owns[j]] = admitted ? experts[j] : -1;
      }
    }
  }
}

}  // namespace

void AdmitByCapacity(const AdmitByCapacityArgs& args, StreamView stream) {
  CheckArgs(args);
  const int64_t ranks = args.all.shape[0], run = args.sequence_tokens / ranks;
  const Admission admission{
      .all = Elements<int32_t>(args.all),
      .out = Elements<int32_t>(args.out),
      .ranks = ranks,
      .rank_rows = args.all.shape[1],
      .top_k = args.all.shape[2],
      .run = run,
      .chunk = ranks == 1 ? run : run / 2,
      .num_rows = args.out.shape[0],
      .sequence_tokens = args.sequence_tokens,
      .num_experts = args.num_experts,
      .capacity = args.capacity,
      .rank = args.rank,
      .first_row = args.first_row,
      .rounds = static_cast<int>(CeilDiv(args.num_experts, int64_t{kThreads}))};
  Launch("AdmitByCapacity", stream, AdmitKernel,
         LaunchShape{.blocks = args.all.shape[1] / run, .threads_x = kThreads}, admission);
}

}  // namespace muster::kernels::cuda
