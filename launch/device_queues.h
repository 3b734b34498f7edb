#pragma once
// Whether a job's streams get hardware queues enough on its GPUs. Streams that share a queue hold
// each other up: in a pipeline, a receive that waits for another stage would hold up the compute
// that this stage waits for in turn.
#include "absl/status/status.h"
#include "launch/rank_env.h"
#include "runtime/job/config.h"

namespace muster::launch {

// A stage in the middle of a V-shaped schedule has a dozen streams.
constexpr int kLeastDeviceQueues = 16;

// Errors: a pipeline on GPUs, and CUDA_DEVICE_MAX_CONNECTIONS is less than that. Where it is not
// set, kernels::PrepareProcess sets what is wanted.
absl::Status CheckDeviceQueues(const runtime::ResolvedJob& job, const Environment& environment);

}  // namespace muster::launch
