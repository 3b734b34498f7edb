#include "kernels/ops/balance.h"

#include "kernels/ops/check_args.h"

namespace muster::kernels {

void CheckArgs(const AddCountsArgs& args) {
  CheckTensor("AddCounts", "counts", args.counts, DType::kInt64, args.total.shape);
  CheckTensor("AddCounts", "total", args.total, DType::kInt64, args.total.shape);
}

void CheckArgs(const UpdateBalanceArgs& args) {
  CheckRank("UpdateBalance", "counts", args.counts, DType::kInt64, 2);
  for (const auto& [name, tensor] : {std::pair{"load", args.load}, std::pair{"bias", args.bias}}) {
    if (!tensor) continue;
    CheckTensor("UpdateBalance", name, tensor, AccumulatorDType(tensor.dtype), args.counts.shape);
  }
}

}  // namespace muster::kernels
