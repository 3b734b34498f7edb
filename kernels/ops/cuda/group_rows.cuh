#pragma once
// The rows of an expert, from offsets that only the device knows.
#include <cstdint>

#include "kernels/ops/cuda/vector.cuh"

namespace muster::kernels::cuda {

struct GroupRows {
  int64_t begin, end;
};

// Offsets come from the router of this very step: wrong ones would reach outside the tensors.
__device__ inline GroupRows RowsOfExpert(const int64_t* offsets, int64_t expert, int64_t num_rows) {
  const int64_t begin = offsets[expert], end = offsets[expert + 1];
  MUSTER_DEVICE_CHECK(0 <= begin && begin <= end && end <= num_rows,
                      "expert %lld owns rows [%lld, %lld) of %lld", static_cast<long long>(expert),
                      static_cast<long long>(begin), static_cast<long long>(end),
                      static_cast<long long>(num_rows));
  return {begin, end};
}

}  // namespace muster::kernels::cuda
