#pragma once
// The collectives of one NCCL communicator: which of NCCL's calls each is made of. Costs are in
// parallel/comm/nccl_backend.h, which adds deadlines and failures. Each call enqueues on the
// stream. NCCL launches behind the caller's back, so a call here returns only once it has been
// launched, and work enqueued next comes after it.
//
// Used by one thread at a time. Errors: NcclComm::Settle's; then the communicator must not be used
// again.
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/memory.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

class NcclComm;

class NcclAlgorithms {
 public:
  using TensorView = kernels::TensorView;
  using StreamView = kernels::StreamView;
  struct Options {
    int rank = 0, size = 0;
    kernels::Device device;
    bool sums_in_rank_order = false;
  };

  // Takes the staging memory. Errors: out of memory.
  static absl::StatusOr<std::unique_ptr<NcclAlgorithms>> Create(const Options& options);
  // `comm` is used from here on; it must outlive the calls.
  void Use(NcclComm* comm) { comm_ = comm; }

  // One call of each kind: the first of a kind opens connections, takes memory and loads kernels.
  absl::Status Warm(StreamView stream);
  absl::Status AllReduce(TensorView data, ReduceOp op, StreamView stream);
  // `out` has the size of a part, and may be this rank's part of `in`.
  absl::Status ReduceScatter(TensorView in, TensorView out, ReduceOp op, StreamView stream);
  absl::Status AllGather(TensorView in, TensorView out, StreamView stream);
  // Rows by counts, int64 [n] each, on the host. An exchange of no rows is left out on both sides.
  absl::Status ExchangeRows(const void* in, void* out, const int64_t* send_counts,
                            const int64_t* receive_counts, int64_t row_bytes, StreamView stream);
  // To the rank `distance` further, from the one as far behind.
  absl::Status Shift(TensorView in, TensorView out, int distance, StreamView stream);
  absl::Status Send(TensorView data, int peer, StreamView stream);
  absl::Status Receive(TensorView data, int peer, StreamView stream);
  absl::Status Broadcast(TensorView data, int root, StreamView stream);
  absl::Status Barrier(StreamView stream);

 private:
  explicit NcclAlgorithms(const Options& options)
      : options_(options), rank_(options.rank), size_(options.size) {}
  template <typename Calls>
  absl::Status MadeTogether(Calls calls);
  bool ReducesInRankOrder(ReduceOp op) const {
    return op == ReduceOp::kMax || options_.sums_in_rank_order;
  }
  absl::Status ReduceStaged(TensorView data, ReduceOp op, StreamView stream);
  absl::Status ReducePartsStaged(TensorView in, TensorView out, ReduceOp op, StreamView stream);

  const Options options_;
  const int rank_, size_;
  NcclComm* comm_ = nullptr;
  kernels::DeviceBuffer staging_;  // one part per rank
  kernels::DeviceBuffer token_;    // an int32 that barriers add
};

}  // namespace muster::parallel
