#pragma once
// Reduces gradient buckets on the communication stream while the backward goes on. A parameter
// reports Ready after its gradient's last contribution; a bucket whose parameters are all ready is
// enqueued at once (overlap) or at Finish (no overlap), in the same order and with the same
// arithmetic: the results are bitwise equal. ZeRO 0 all-reduces a bucket, ZeRO 1 reduce-scatters
// it, so that only this rank's shard is valid afterwards. From ZeRO 2 on every microbatch's bucket
// is reduced when it is ready (gradient_pool.h). Where replicas are divided into blocks that shard
// among themselves (zero.shard_ranks), shards of blocks are added up once, with the last
// microbatch.
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/dp/blank_gradients.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/dp/gradient_observer.h"
#include "parallel/dp/gradient_pool.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

struct DataParallelOptions {
  int zero_level = 1;   // 0 to 3
  bool overlap = true;  // reduce under the backward, gather under the next forward
};

class BucketReducer {
 public:
  static absl::StatusOr<std::unique_ptr<BucketReducer>> Create(const BucketStorage& storage,
                                                               const Mesh& mesh,
                                                               DataParallelOptions options,
                                                               kernels::StreamView comm);
  // Called before each reduction; of a bucket without replicas, too.
  void Observe(GradientObserver observer);
  // Gradients have no value from here, and nobody is ready.
  void BeginStep(kernels::StreamView compute);
  // Before work that contributes to a gradient is enqueued: its memory is there, and keeps its
  // address until the next call for another gradient. Whether the work adds, or writes all of it.
  absl::StatusOr<bool> Contribute(ParameterId id, kernels::StreamView compute);
  // Only the last microbatch's contributions make a gradient ready: Ready does nothing before.
  void SetLastMicrobatch(bool last) { last_microbatch_ = last; }
  // Errors: ready twice in one step.
  absl::Status Ready(ParameterId id, kernels::StreamView compute);
  // Enqueues what is left; `compute` waits for all reductions, under TimeCategory kExposedDp.
  // Errors: a parameter that never became ready, named.
  absl::Status Finish(kernels::StreamView compute);

 private:
  BucketReducer(const BucketStorage& storage, const Mesh& mesh, DataParallelOptions options,
                kernels::StreamView comm, std::unique_ptr<BlankGradients> blank,
                std::unique_ptr<GradientPool> pool, kernels::Event filled, kernels::Event reduced);
  void ForgetReady();
  absl::Status ReduceNext(kernels::StreamView compute);
  // Over the ranks that shard the bucket; then over the blocks.
  absl::Status ReduceInside(int bucket, kernels::StreamView compute);
  absl::Status ReduceAcross(int bucket);
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const DataParallelOptions options_;
  const kernels::StreamView comm_;
  const std::unique_ptr<BlankGradients> blank_;
  const std::unique_ptr<GradientPool> pool_;
  GradientObserver observer_;
  bool last_microbatch_ = true;
  std::vector<bool> ready_;          // by ParameterId
  std::vector<int> missing_;         // by bucket: parameters not yet ready
  int next_ = 0;                     // buckets are enqueued in order, so that ranks agree
  kernels::Event filled_, reduced_;  // of the bucket enqueued last
};

}  // namespace muster::parallel
