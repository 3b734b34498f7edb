#pragma once
// Digests (kernels/base/word_digest.h) of what lies in buckets, a parameter each: of their weights,
// or of their gradients as one rank computed them. Equal bits have equal digests on every rank, as
// a bucket's layout is that of all its replicas.
#include <vector>

#include "kernels/device/stream.h"
#include "kernels/ops/range_table.h"
#include "kernels/tensor/arena.h"
#include "parallel/dp/grad_bucket.h"

namespace muster::parallel {

class BucketDigests {
 public:
  // `layout` outlives it.
  BucketDigests(const BucketLayout& layout, kernels::ArenaPlan& plan);
  void Clear(kernels::StreamView compute);
  // Adds the digests of the bucket's parameters in `whole` [num_elements].
  void Add(int bucket, const kernels::TensorView& whole, kernels::StreamView compute);
  // Int64 [parameters], bucket by bucket and slice by slice; what they are of.
  const kernels::TensorView& sums() const { return sums_; }
  const std::vector<ParameterId>& parameters() const { return parameters_; }
  // Where the sums of a bucket begin.
  int64_t first(int bucket) const { return first_[static_cast<size_t>(bucket)]; }

 private:
  const BucketLayout& layout_;
  std::vector<ParameterId> parameters_;
  std::vector<int64_t> first_;                     // by bucket
  std::vector<kernels::TensorView> table_memory_;  // by bucket, uint8
  std::vector<kernels::RangeTable> tables_;        // by bucket; written when first used
  kernels::TensorView sums_;
};

}  // namespace muster::parallel
