#pragma once
// What a backend (MPI on host memory, NCCL) implements for one process group. Callers use
// parallel/comm/collectives.h, which checks arguments, keeps the log, and handles groups of one.
// Each call enqueues on `stream` and returns; failures that happen later are left in the stream
// (StreamView::Fail). Ranks of a group make the same calls in the same order.
//
// Reductions add in rank order 0 .. n-1, in the accumulator dtype, whatever the message's size or
// split, so results do not depend on how gradients are cut into buckets. The exception: sums of
// NCCL, unless asked to (NcclOptions::sums_in_rank_order). Those repeat to the bit for one layout,
// but the order is NCCL's and depends on size and place; bf16 is rounded after each addition.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/collective_log.h"

namespace muster::parallel {

enum class ReduceOp { kSum, kMax };

// How long a collective that begins now may take; whoever knows what the job is doing changes it.
using SharedDeadline = std::atomic<std::chrono::milliseconds>;

// One enqueued call; the backend reports its start and end to the log.
struct CollectiveCall {
  CollectiveLog* log = nullptr;
  uint64_t id = 0;
  std::string what;  // "all_reduce #12 of group dp, 4096 bytes, from parallel/dp/x.cc:40"
};

// Memory for collectives by copy engines (parallel/comm/copy_exchange.h).
struct CopyMemory {
  kernels::TensorView staging;  // what peers send to be summed: n - 1 parts of the largest sum
  std::vector<kernels::TensorView> targets;  // where all-gathers write
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  using TensorView = kernels::TensorView;
  using StreamView = kernels::StreamView;

  // See parallel/comm/collectives.h. A backend without copy engines has nothing to do.
  virtual absl::Status UseCopyEngines(const CopyMemory&) { return absl::OkStatus(); }

  virtual absl::Status AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                                 StreamView stream) = 0;
  virtual absl::Status ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                     CollectiveCall call, StreamView stream) = 0;
  virtual absl::Status AllGather(TensorView in, TensorView out, CollectiveCall call,
                                 StreamView stream) = 0;
  virtual absl::Status AllToAll(TensorView in, TensorView out, TensorView send_counts,
                                TensorView receive_counts, CollectiveCall call,
                                StreamView stream) = 0;
  // Flat and in equal parts by rank order.
  virtual absl::Status AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                                     StreamView stream) = 0;
  // `in` to rank + distance, `out` from rank - distance, both modulo the size.
  virtual absl::Status Shift(TensorView in, TensorView out, int distance, CollectiveCall call,
                             StreamView stream) = 0;
  virtual absl::Status Send(TensorView data, int peer, CollectiveCall call, StreamView stream) = 0;
  virtual absl::Status Receive(TensorView data, int peer, CollectiveCall call,
                               StreamView stream) = 0;
  virtual absl::Status Broadcast(TensorView data, int root, CollectiveCall call,
                                 StreamView stream) = 0;
  virtual absl::Status Barrier(CollectiveCall call, StreamView stream) = 0;
};

}  // namespace muster::parallel
