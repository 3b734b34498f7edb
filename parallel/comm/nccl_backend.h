#pragma once
// The communicator of GPU memory, over NCCL. Differences from MPI on host memory:
//   - Sums follow NCCL's algorithm: fixed for a layout and a size, but neither in rank order nor
//     free of the way a tensor is cut; bf16 is rounded at each step.
//     NcclOptions::sums_in_rank_order keeps communicator.h's promise to the bit instead. Maxima
//     always keep it, and keep NaN, which NCCL's own maximum loses.
//   - An all-to-all by counts blocks the host: NCCL wants counts there, so they are copied and the
//     stream is waited for. All else enqueues; the host spends some tens of microseconds a call,
//     since a non-blocking communicator launches from a thread of its own.
//   - With CtaPolicy::kZero and after UseCopyEngines, sums of reduce-scatters and the all-gathers
//     into its targets are made by copy engines (parallel/comm/copy_exchange.h), sums in rank order
//     to the bit. When the communicator breaks, streams that wait for peers are let go on, and what
//     they then copy may be old: the job must end, as it does.
//   - Counts that disagree between ranks are not noticed as such: the call overruns its deadline,
//     or moves rows of the wrong number.
// A call that overruns its deadline, or a connection that fails, leaves its error in the stream of
// every call under way, and the communicator is broken: later calls fail with that first error.
//
// Bytes per rank, n ranks, B bytes of the whole tensor: NCCL's sums and gathers as documented
// there; in rank order, reduce-scatter sends (n-1)/n B and all-reduce (n-1) B, through n MiB of
// staging memory on the device, taken when the communicator is made.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/comm/watchdog.h"

namespace muster::parallel {

constexpr int64_t kNcclIdBytes = 128;

struct NcclCommunicatorOptions {
  std::string unique_id;         // NewNcclId's, from the group's first rank
  std::string name;              // of the group
  std::string host;              // of this process
  std::vector<int> world_ranks;  // of the group, by group rank
  int rank = 0;                  // of this process in the group
  kernels::Device device;
  const SharedDeadline* deadline = nullptr;  // outlives the group
  NcclOptions nccl;  // max_ctas is this group's; overlapped_max_ctas is not looked at
  std::atomic<bool>* world_failed = nullptr;  // set at the first failure; outlives the group
  Watchdog* watchdog = nullptr;               // outlives the group
};

// Once per process before the others, on every rank. Errors: no such device; see NcclComm::Prepare.
absl::Status PrepareNccl(kernels::Device device, const NcclOptions& options);
absl::StatusOr<std::string> NewNcclId();
// All ranks of the group call it. Opens the connections, by one small call of each kind; ranks that
// do not come within the deadline (at least a minute) are an error.
absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(NcclCommunicatorOptions options);

}  // namespace muster::parallel
