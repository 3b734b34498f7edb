#pragma once
// Gradients from ZeRO 2 on: a rank keeps its shard, fp32, and a bucket exists as a whole only while
// a microbatch adds to it. The first contribution takes a buffer of the pool (compute waits until
// it is free), without a value (blank_gradients.h); once every parameter of the bucket was ready in
// the microbatch, the bucket is reduce-scattered on the communication stream, into the shard or,
// from the second time in a step, added to it, and its buffer is free again. If a bucket wants a
// buffer and none is free, the one used longest ago is reduced early: reduction is linear, so a
// bucket may travel in parts (tied embeddings, whose gradient is begun by the output; norms, with a
// split backward). Every rank of a stage makes the same calls in the same order, so results do not
// depend on overlap.
//
// Traffic: of M microbatches M reduce-scatters of a bucket instead of one. With one microbatch and
// no early reduction the sums are those of ZeRO 1, bit for bit; else the order of additions
// differs: over ranks first, then over microbatches.
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/dp/blank_gradients.h"
#include "parallel/dp/buffer_pool.h"
#include "parallel/dp/gradient_observer.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

class GradientPool {
 public:
  static absl::StatusOr<std::unique_ptr<GradientPool>> Create(const BucketStorage& storage,
                                                              const Mesh& mesh, bool overlap,
                                                              kernels::StreamView comm,
                                                              BlankGradients& blank);
  void Observe(GradientObserver observer) { observer_ = std::move(observer); }
  // Shards have no value from here. Drops what is held: after a step that failed half way.
  void BeginStep();
  // Before work on `compute` that contributes to a gradient of the bucket is enqueued: parameters
  // point into a buffer from here until the bucket is reduced.
  absl::Status Hold(int bucket, kernels::StreamView compute);
  // A microbatch's contributions to a gradient are enqueued. Reduces the bucket with its last one.
  absl::Status Ready(ParameterId id, kernels::StreamView compute);
  // Reduces the bucket if a buffer holds contributions to it.
  absl::Status Reduce(int bucket, kernels::StreamView compute);

 private:
  GradientPool(const BucketStorage& storage, const Mesh& mesh, bool overlap,
               kernels::StreamView comm, BlankGradients& blank, kernels::Event filled,
               std::vector<kernels::Event> free);
  void Expect(int bucket);  // all parameters of the bucket
  const Bucket& Of(int bucket) const {
    return storage_.layout().buckets[static_cast<size_t>(bucket)];
  }
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const bool overlap_;
  const kernels::StreamView comm_;
  BlankGradients& blank_;
  GradientObserver observer_;
  PoolTurns turns_;
  std::vector<bool> seen_;            // by ParameterId: ready since the bucket was complete
  std::vector<int> missing_;          // by bucket: parameters not seen
  std::vector<bool> reduced_;         // by bucket: its shard has a value in this step
  kernels::Event filled_;             // of the bucket reduced last
  std::vector<kernels::Event> free_;  // by buffer: what it held has been reduced
};

}  // namespace muster::parallel
