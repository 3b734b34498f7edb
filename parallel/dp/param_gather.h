#pragma once
// Brings each bucket's new weights from their shards to every replica (ZeRO 1), on the
// communication stream, in the order in which the next forward reads them; the forward waits for a
// bucket only when it comes to use it. With ZeRO 0 every rank has updated everything, and there is
// nothing to gather.
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/dp/bucket_reducer.h"

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
  void Use(int bucket, kernels::StreamView compute);
  // Waits for all buckets: before weights are read by anything but a forward.
  void Finish(kernels::StreamView compute);

 private:
  ParamGather(const BucketStorage& storage, const Mesh& mesh, DataParallelOptions options,
              kernels::StreamView comm, kernels::Event updated,
              std::vector<kernels::Event> gathered);
  const BucketStorage& storage_;
  const Mesh& mesh_;
  const DataParallelOptions options_;
  const kernels::StreamView comm_;
  std::vector<bool> pending_;             // by bucket: Use has still to wait
  kernels::Event updated_;                // the shards are new
  std::vector<kernels::Event> gathered_;  // by bucket
};

}  // namespace muster::parallel
