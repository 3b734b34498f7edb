#pragma once
// Who is to see gradients as this rank alone computed them: before each reduction of a bucket, in
// which other ranks add to them. From zero.level 2 on a bucket is reduced for each microbatch, and
// may be so in parts.
#include <functional>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"

namespace muster::parallel {

// `whole` [num_elements]: where the bucket's parameters have their gradients; what is enqueued on
// `compute` sees all of them, and the reduction what that leaves. An error ends the step.
using GradientObserver = std::function<absl::Status(int bucket, const kernels::TensorView& whole,
                                                    kernels::StreamView compute)>;

}  // namespace muster::parallel
