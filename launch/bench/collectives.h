#pragma once
// Collectives over all ranks of the world, by size.
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/device.h"
#include "launch/bench/table.h"
#include "parallel/comm/rendezvous.h"

namespace muster::launch {

// Four rows a size (all-reduce, reduce-scatter, all-gather, all-to-all of fp32 tensors of `bytes`
// in all), with bus bandwidth: what each rank has to send, (n - 1) / n of the tensor, twice that of
// an all-reduce, over the time of the slowest rank. The limit is a GPU's NVLink one way (data
// sheets of H100 and H200; none is known of others); on the CPU a copy in this host's memory. All
// ranks call it. Errors: a world of one; what the collectives fail with.
absl::StatusOr<BenchTable> BenchCollectives(const std::vector<int64_t>& bytes,
                                            kernels::Device device, parallel::World& world);

}  // namespace muster::launch
