// Balance of experts: a few kilobytes, once a step; only the launches cost time.
#include "kernels/ops/balance.h"
#include "kernels/ops/cuda/flat.cuh"
#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {
namespace {

struct AddTo {
  const int64_t* counts;
  int64_t* total;

  template <int kWidth>
  __device__ void Run(int64_t at) const {
    total[at] += counts[at];
  }
};

// A block takes a layer.
__global__ void BalanceKernel(const int64_t* counts, int64_t num_experts, float* load, float* bias,
                              int top_k, float rate) {
  const int64_t at = blockIdx.x * num_experts;
  int64_t sum = 0;
  for (int64_t e = threadIdx.x; e < num_experts; e += blockDim.x) sum += counts[at + e];
  sum = RowSum(sum);
  for (int64_t e = threadIdx.x; e < num_experts; e += blockDim.x) {
    const int64_t count = counts[at + e];
    if (load != nullptr) {
      const double share = sum > 0 ? static_cast<double>(count) / static_cast<double>(sum)
                                   : 1.0 / static_cast<double>(num_experts);
      load[at + e] = static_cast<float>(top_k * share);
    }
    if (bias != nullptr) {
      const int64_t missing = sum - num_experts * count;
      bias[at + e] += rate * static_cast<float>((missing > 0) - (missing < 0));
    }
  }
}

}  // namespace

void AddCounts(const AddCountsArgs& args, StreamView stream) {
  CheckArgs(args);
  const AddTo add{Elements<int64_t>(args.counts), Elements<int64_t>(args.total)};
  RunFlat<1>("AddCounts", args.total.num_elements(), {}, add, stream);
}

void UpdateBalance(const UpdateBalanceArgs& args, StreamView stream) {
  CheckArgs(args);
  for (const TensorView& tensor : {args.load, args.bias}) {
    if (tensor && !IsFloat32("UpdateBalance", tensor.dtype, stream)) return;
  }
  Launch("UpdateBalance", stream, BalanceKernel,
         RowLoopShape(args.counts.shape[0], args.counts.shape[1]), Elements<int64_t>(args.counts),
         args.counts.shape[1], Elements<float>(args.load), Elements<float>(args.bias), args.top_k,
         static_cast<float>(args.rate));
}

}  // namespace muster::kernels::cuda
