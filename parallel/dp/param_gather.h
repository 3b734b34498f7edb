#pragma once
// Brings each bucket's new weights from their shards to every replica (ZeRO 1), on the
// communication stream, in the order in which the next forward reads them; the forward waits for a
// bucket only when it comes to use it. With ZeRO 0 every rank has updated everything, and there is
// nothing to gather. With ZeRO 3 weights are gathered around each use (weight_pool.h).
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/dp/bucket_reducer.h"
#include "parallel/dp/weight_pool.h"

namespace muster::parallel {

class ParamGather {
 public:
  static absl::StatusOr<std::unique_ptr<ParamGather>> Create(const BucketStorage& storage,
                                                             const Mesh& mesh,
                                                             DataParallelOptions options,
                                                             kernels::StreamView comm);
  // After the optimizer's update of all shards was enqueued on `compute`. Without overlap,
  // `compute` waits here for all of them.
  absl::Status Start(kernels::StreamView compute);
  // `compute` waits until this bucket's new weights are there, under kExposedDp.
  absl::Status Use(int bucket, kernels::StreamView compute);
  // Waits for all gathers of Start: before weights are read by anything that does not Use them.
  void Finish(kernels::StreamView compute);
  // Gives every weight a value: `write` enqueues it on `compute`, of a parameter whose weight is
  // there as a whole. For initial values; no gather may be under way.
  absl::Status WriteWeights(const std::function<void(const Parameter&)>& write,
                            kernels::StreamView compute);
  const WeightPool& pool() const { return *pool_; }

 private:
  ParamGather(const BucketStorage& storage, const Mesh& mesh, DataParallelOptions options,
              kernels::StreamView comm, std::unique_ptr<WeightPool> pool, kernels::Event updated,
              std::vector<kernels::Event> gathered);
  void WaitFor(int bucket, kernels::StreamView compute);
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const DataParallelOptions options_;
  const kernels::StreamView comm_;
  const std::unique_ptr<WeightPool> pool_;
  std::vector<bool> pending_;             // by bucket: Use has still to wait
  kernels::Event updated_;                // the shards are new
  std::vector<kernels::Event> gathered_;  // by bucket
};

}  // namespace muster::parallel
