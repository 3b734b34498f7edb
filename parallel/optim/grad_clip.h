#pragma once
// The norm of the whole gradient, and the clip coefficient, without the host: each rank squares its
// own part of every bucket, the sums (fp64) are added over the world, so that every element of
// every parameter counts once on any layout.
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/ops/reduce.h"
#include "kernels/tensor/arena.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

// On the device, valid in stream order.
struct GradientFacts {
  kernels::TensorView sum_of_squares;  // fp64 [1]
  kernels::TensorView norm;            // fp64 [1]
  kernels::TensorView scale;           // accumulator dtype [1]: clip coefficient; 0: not finite
};

class GradientClip {
 public:
  GradientClip(const BucketStorage& storage, const Mesh& mesh, double max_norm,
               kernels::ArenaPlan& plan);
  // After BucketReducer::Finish.
  absl::Status Measure(kernels::StreamView compute);
  const GradientFacts& facts() const { return facts_; }

 private:
  std::vector<kernels::SquaresRange> Ranges() const;
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const double max_norm_;
  GradientFacts facts_;
  kernels::TensorView table_memory_;  // uint8
  kernels::RangeTable table_;         // of what this rank squares; written by the first Measure
};

}  // namespace muster::parallel
