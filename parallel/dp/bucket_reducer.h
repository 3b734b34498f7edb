#pragma once
// Reduces gradient buckets on the communication stream while the backward goes on. A parameter
// reports Ready after its gradient's last contribution; a bucket whose parameters are all ready is
// enqueued at once (overlap) or at Finish (no overlap), in the same order and with the same
// arithmetic: the results are bitwise equal. ZeRO 0 all-reduces a bucket, ZeRO 1 reduce-scatters
// it, so that only this rank's shard is valid afterwards.
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

struct DataParallelOptions {
  int zero_level = 1;   // 0 or 1
  bool overlap = true;  // reduce under the backward, gather under the next forward
};

class BucketReducer {
 public:
  static absl::StatusOr<std::unique_ptr<BucketReducer>> Create(const BucketStorage& storage,
                                                               const Mesh& mesh,
                                                               DataParallelOptions options,
                                                               kernels::StreamView comm);
  // Zeroes the gradients on `compute` and forgets who was ready.
  void BeginStep(kernels::StreamView compute);
  // Only the last microbatch's contributions make a gradient ready: Ready does nothing before.
  void SetLastMicrobatch(bool last) { last_microbatch_ = last; }
  // Errors: ready twice in one step.
  absl::Status Ready(ParameterId id, kernels::StreamView compute);
  // Enqueues what is left; `compute` waits for all reductions, under TimeCategory kExposedDp.
  // Errors: a parameter that never became ready, named.
  absl::Status Finish(kernels::StreamView compute);

 private:
  BucketReducer(const BucketStorage& storage, const Mesh& mesh, DataParallelOptions options,
                kernels::StreamView comm, kernels::Event filled, kernels::Event reduced);
  void ForgetReady();
  absl::Status ReduceNext(kernels::StreamView compute);
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const DataParallelOptions options_;
  const kernels::StreamView comm_;
  bool last_microbatch_ = true;
  std::vector<bool> ready_;          // by ParameterId
  std::vector<int> missing_;         // by bucket: parameters not yet ready
  int next_ = 0;                     // buckets are enqueued in order, so that ranks agree
  kernels::Event filled_, reduced_;  // of the bucket enqueued last
};

}  // namespace muster::parallel
