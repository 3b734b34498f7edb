#pragma once
// Finds where a gradient that is not finite came from. Gradients are looked at after their
// reduction, which spreads a NaN to all replicas, but only in each rank's own part of a bucket
// where the reduction scatters: the other parts still hold what this rank alone computed.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/dp/grad_bucket.h"

namespace muster::runtime {

// One rank's first tensor, in backward order, whose gradient is not finite.
struct NonFiniteGradient {
  int rank = 0;
  std::string tensor;  // "" if this rank has none
  int64_t element = 0;
  // Where it was computed here: not in a part that other ranks have added to.
  bool is_own = false;
};

// This rank's, looked for on the host, in what the rank holds of the gradients.
absl::StatusOr<NonFiniteGradient> FindNonFinite(const parallel::BucketStorage& storage,
                                                kernels::StreamView compute);
// Of all ranks' findings: a sentence that names rank and tensor, or as much as is known.
struct NonFiniteReport {
  std::string text;
  bool knows_rank = false;
};
NonFiniteReport DescribeNonFinite(const std::vector<NonFiniteGradient>& all, int zero_level);
// Collective: both, with the exchange between them.
absl::StatusOr<NonFiniteReport> NameNonFinite(const parallel::BucketStorage& storage,
                                              kernels::StreamView compute, parallel::World& world);

// Where the rank is not known, or the gradient is gone, the step's forward and backward run once
// more, and each rank looks at what it computes, before each reduction.
class NonFiniteSearch {
 public:
  explicit NonFiniteSearch(const parallel::BucketLayout& layout) : layout_(layout) {}
  // A bucket that is about to be reduced. Waits for `compute`, until one was found.
  absl::Status Look(int bucket, const kernels::TensorView& whole, kernels::StreamView compute);
  // After the backward; collective. What the run showed, in words.
  absl::StatusOr<std::string> Describe(parallel::World& world) const;

 private:
  const parallel::BucketLayout& layout_;
  NonFiniteGradient found_;  // the first
};

}  // namespace muster::runtime
