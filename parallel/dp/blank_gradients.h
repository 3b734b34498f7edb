#pragma once
// Gradients begin a step, or their time in a buffer, without a value. A layer that can write its
// whole gradient (Parameter::writes_gradient: the weight of a product) does so with its first
// contribution and adds the later ones; what others add to is zeroed beforehand. That saves writing
// 4 bytes of zeros a weight and reading them again. A gradient nobody contributed to is zeroed
// before its bucket is reduced.
#include <vector>

#include "kernels/device/stream.h"
#include "parallel/dp/grad_bucket.h"

namespace muster::parallel {

class BlankGradients {
 public:
  explicit BlankGradients(const BucketStorage& storage);
  // The bucket's gradients in `whole` [num_elements] have no value yet.
  void Begin(int bucket, const kernels::TensorView& whole, kernels::StreamView compute);
  // A layer is about to contribute to the gradient: must it write instead of adding?
  bool TakeBlank(ParameterId id);
  // Zeroes what is still without a value.
  void FillRest(int bucket, const kernels::TensorView& whole, kernels::StreamView compute);

 private:
  const BucketStorage& storage_;
  std::vector<bool> blank_;  // by ParameterId
};

}  // namespace muster::parallel
