#pragma once
// The collectives of one MPI communicator as blocking calls on host memory: who sends what to whom.
// Their costs are in parallel/comm/mpi_backend.h, which enqueues them on streams. One call at a
// time; a call fails as MpiExchange::Wait does, and then the communicator must not be used again.
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/memory.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi_exchange.h"
#include "parallel/comm/rendezvous.h"

namespace muster::parallel {

constexpr int64_t kSmallAllReduceBytes = 16 << 10;  // most that ReduceSmall takes

// `total` elements cut into `count` parts by rank order; the first ones take the remainder.
struct Parts {
  int64_t total;
  int count;
  int64_t begin(int part) const {
    const int64_t rest = total % count;
    return total / count * part + (part < rest ? part : rest);
  }
  int64_t size(int part) const { return begin(part + 1) - begin(part); }
};

class MpiAlgorithms {
 public:
  // `rank` of this process among `world_ranks`, the communicator's ranks in order.
  MpiAlgorithms(MpiHandle communicator, std::vector<int> world_ranks, int rank, InjectedLink link);

  // The following calls belong to one collective (or, `pairwise`, to one send or receive).
  void Begin(MpiExchange::Clock::time_point deadline, bool pairwise);
  // Part p of `in` is rank p's to reduce; `out` gets this rank's, and may be that part of `in`.
  absl::Status ReduceParts(const void* in, void* out, kernels::DType dtype, ReduceOp op,
                           Parts parts);
  // Every rank's own part into its place of `out`; `own` may be that place.
  absl::Status GatherParts(const void* own, void* out, int64_t element_bytes, Parts parts);
  // Everybody gets every contribution and reduces all of it: the same order, so the same bits.
  absl::Status ReduceSmall(void* data, kernels::DType dtype, ReduceOp op, int64_t count);
  // Rows by counts, int64 [n] each. Errors, before anything is sent: counts that do not fit.
  absl::Status ExchangeRows(kernels::TensorView in, kernels::TensorView out,
                            const int64_t* send_counts, const int64_t* receive_counts);
  // To the rank `distance` further, from the one as far behind.
  absl::Status Shift(const void* in, int64_t in_bytes, void* out, int64_t out_bytes, int distance);
  absl::Status Broadcast(void* data, int64_t bytes, int root);
  absl::Status Barrier();
  absl::Status Send(int peer, const void* data, int64_t bytes);
  absl::Status Receive(int peer, void* data, int64_t bytes);
  // After a failure: gives up the messages still under way.
  void Abandon();

 private:
  // Sleeps for what the injected link adds to messages sent one after the other.
  void Delay(int64_t num_messages, int64_t bytes) const;
  absl::Status ReserveStaging(int64_t bytes);
  void PostWindow(int slot, int64_t window, const void* in, int64_t element_bytes, Parts parts);
  int PeerAt(int distance) const { return (rank_ + distance + size_) % size_; }

  const int rank_, size_;
  const InjectedLink link_;
  MpiExchange exchange_, next_exchange_;
  kernels::DeviceBuffer staging_;
  std::vector<const void*> sources_;  // of one reduction, by rank
  std::vector<int64_t> send_begin_, receive_begin_;
  int tag_ = 0, num_collectives_ = 0;
  MpiExchange::Clock::time_point deadline_;
};

}  // namespace muster::parallel
