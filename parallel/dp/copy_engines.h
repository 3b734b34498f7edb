#pragma once
// Buckets moved by copy engines instead of NCCL's kernels (communication.nccl.cta_policy: ZERO):
// reductions no longer take multiprocessors from the backward that hides them, nor gathers from the
// forward. What shard groups do is moved so; what crosses blocks of shards (zero.shard_ranks) is
// still NCCL's.
#include "absl/status/status.h"
#include "parallel/dp/grad_bucket.h"
#include "parallel/mesh/mesh.h"

namespace muster::parallel {

// All ranks call it, once the arena is there; `storage` was made for copy engines. Errors: see
// UseCopyEngines of parallel/comm/collectives.h.
absl::Status MoveBucketsByCopyEngines(const BucketStorage& storage, const Mesh& mesh);

}  // namespace muster::parallel
