#pragma once
// Weights with ZeRO 3: a rank keeps its shard, and a bucket exists as a whole only around its use.
// The first use in a pass gathers it on the communication stream into a buffer of the pool, and
// starts the gather of the bucket that follows in the direction of the pass (down the list in the
// forward, up in the backward), which so travels while this one computes. A bucket's buffer is
// released when another bucket takes it: the one used longest ago, after the work enqueued by then.
// Every rank of a stage makes the same calls in the same order.
//
// Traffic: each pass over the layers gathers the weights: 2 M all-gathers of a bucket in a step of
// M microbatches, less what is still there when a pass turns.
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/dp/buffer_pool.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

class WeightPool {
 public:
  static absl::StatusOr<std::unique_ptr<WeightPool>> Create(const BucketStorage& storage,
                                                            const Mesh& mesh, bool overlap,
                                                            kernels::StreamView comm);
  // Work enqueued on `compute` has written the shards: what buffers hold is old.
  void Updated(kernels::StreamView compute);
  // Parameters of the bucket point to its weights, which work enqueued on `compute` from here on
  // may read; until kPoolBuffers - 1 other buckets of its size have been used.
  absl::Status Use(int bucket, kernels::StreamView compute);
  // Parameters of the bucket point to a buffer that holds nothing: to be filled, then stored.
  absl::Status UseEmpty(int bucket, kernels::StreamView compute);
  // This rank's part of what was filled in becomes its shard.
  void Store(int bucket, kernels::StreamView compute);
  int64_t num_gathers() const { return num_gathers_; }

 private:
  WeightPool(const BucketStorage& storage, const Mesh& mesh, bool overlap, kernels::StreamView comm,
             kernels::Event updated, std::vector<kernels::Event> released,
             std::vector<kernels::Event> gathered);
  // A buffer for the bucket; gathers wait for the work enqueued so far, which may read it.
  int TakeBuffer(int bucket, kernels::StreamView compute);
  void Drop(int bucket);
  absl::Status Gather(int bucket, kernels::StreamView compute);
  absl::Status GatherNext(int bucket, int before, kernels::StreamView compute);
  const Bucket& Of(int bucket) const {
    return storage_.layout().buckets[static_cast<size_t>(bucket)];
  }
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const bool overlap_;
  const kernels::StreamView comm_;
  PoolTurns turns_;
  std::map<Axis, int> last_used_;  // bucket, by replica axis
  int64_t num_gathers_ = 0;
  kernels::Event updated_;
  std::vector<kernels::Event> released_, gathered_;  // by buffer
  std::vector<bool> pending_;                        // by buffer: compute has yet to wait
};

}  // namespace muster::parallel
