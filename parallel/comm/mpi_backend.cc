#include "parallel/comm/mpi_backend.h"

#include <mpi.h>

#include <chrono>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/base/error.h"
#include "parallel/comm/mpi_algorithms.h"

namespace muster::parallel {
namespace {

using kernels::SizeOf;
using kernels::StreamView;
using kernels::TensorView;

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const MpiCommunicatorOptions& options)
      : options_(options),
        rank_(options.rank),
        size_(static_cast<int>(options.world_ranks.size())),
        mpi_(options.communicator, options.world_ranks, options.rank, options.injected_link) {}
  ~MpiCommunicator() override;

  absl::Status AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                         StreamView stream) override;
  absl::Status ReduceScatter(TensorView in, TensorView out, ReduceOp op, CollectiveCall call,
                             StreamView stream) override;
  absl::Status AllGather(TensorView in, TensorView out, CollectiveCall call,
                         StreamView stream) override;
  absl::Status AllToAll(TensorView in, TensorView out, TensorView send_counts,
                        TensorView receive_counts, CollectiveCall call, StreamView stream) override;
  absl::Status AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                             StreamView stream) override;
  absl::Status Shift(TensorView in, TensorView out, int distance, CollectiveCall call,
                     StreamView stream) override;
  absl::Status Send(TensorView data, int peer, CollectiveCall call, StreamView stream) override;
  absl::Status Receive(TensorView data, int peer, CollectiveCall call, StreamView stream) override;
  absl::Status Broadcast(TensorView data, int root, CollectiveCall call,
                         StreamView stream) override;
  absl::Status Barrier(CollectiveCall call, StreamView stream) override;

 private:
  // Enqueues `work`, a callable that returns a Status, between the log's marks. `pairwise`: a send
  // or a receive, which only two ranks call.
  template <typename Work>
  absl::Status Run(CollectiveCall call, StreamView stream, bool pairwise, Work work);
  absl::Status FirstFailure();
  absl::Status Break(const absl::Status& status, const CollectiveCall& call,
                     std::chrono::milliseconds deadline);

  const MpiCommunicatorOptions options_;
  const int rank_, size_;
  MpiAlgorithms mpi_;  // used by the stream's thread only
  std::mutex mutex_;   // guards first_failure_: the host asks while a stream's thread works
  absl::Status first_failure_;
};

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  // A broken communicator may still have messages under way; freed, its identity could be reused.
  if (finalized || options_.world_failed->load()) return;
  MPI_Comm communicator = MPI_Comm_f2c(options_.communicator);
  MPI_Comm_free(&communicator);
}

absl::Status MpiCommunicator::FirstFailure() {
  std::lock_guard lock(mutex_);
  return first_failure_;
}

absl::Status MpiCommunicator::Break(const absl::Status& status, const CollectiveCall& call,
                                    std::chrono::milliseconds deadline) {
  std::string message = call.what + " failed on world rank " +
                        std::to_string(options_.world_ranks[static_cast<size_t>(rank_)]) + ": ";
  if (absl::IsDeadlineExceeded(status)) {
    message += "not done within " + std::to_string(deadline.count()) + " ms, ";
  }
  message += std::string(status.message()) + "\n" + call.log->DescribePending();
  mpi_.Abandon();
  std::lock_guard lock(mutex_);
  first_failure_ = absl::Status(status.code(), message);
  options_.world_failed->store(true);
  return first_failure_;
}

template <typename Work>
absl::Status MpiCommunicator::Run(CollectiveCall call, StreamView stream, bool pairwise,
                                  Work work) {
  RETURN_IF_ERROR(FirstFailure());
  stream.Enqueue([this, stream, pairwise, call = std::move(call), work = std::move(work)] {
    call.log->Started(call.id);
    absl::Status status = FirstFailure();
    if (status.ok()) {
      const std::chrono::milliseconds deadline = *options_.deadline;
      mpi_.Begin(MpiExchange::Clock::now() + deadline, pairwise);
      status = work();
      if (!status.ok()) status = Break(status, call, deadline);
    }
    call.log->Done(call.id, status.ok());
    if (!status.ok()) stream.Fail(status);
  });
  return FirstFailure();
}

absl::Status MpiCommunicator::AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this]() -> absl::Status {
    const int64_t count = data.num_elements();
    if (data.bytes() <= kSmallAllReduceBytes) {
      return mpi_.ReduceSmall(data.data, data.dtype, op, count);
    }
    const Parts parts{count, size_};
    void* own = static_cast<char*>(data.data) + parts.begin(rank_) * SizeOf(data.dtype);
    RETURN_IF_ERROR(mpi_.ReduceParts(data.data, own, data.dtype, op, parts));
    return mpi_.GatherParts(own, data.data, SizeOf(data.dtype), parts);
  });
}

absl::Status MpiCommunicator::ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                            CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this] {
    return mpi_.ReduceParts(in.data, out.data, in.dtype, op, {in.num_elements(), size_});
  });
}

absl::Status MpiCommunicator::AllGather(TensorView in, TensorView out, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this] {
    return mpi_.GatherParts(in.data, out.data, SizeOf(in.dtype), {out.num_elements(), size_});
  });
}

absl::Status MpiCommunicator::AllToAll(TensorView in, TensorView out, TensorView send_counts,
                                       TensorView receive_counts, CollectiveCall call,
                                       StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this] {
    return mpi_.ExchangeRows(in, out, send_counts.as<int64_t>(), receive_counts.as<int64_t>());
  });
}

absl::Status MpiCommunicator::AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                                            StreamView stream) {
  const int64_t count = in.num_elements();
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this] {
    const std::vector<int64_t> counts(static_cast<size_t>(size_), count / size_);
    return mpi_.ExchangeRows(in.Reshape({count}), out.Reshape({count}), counts.data(),
                             counts.data());
  });
}

absl::Status MpiCommunicator::Shift(TensorView in, TensorView out, int distance,
                                    CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [=, this] {
    return mpi_.Shift(in.data, in.bytes(), out.data, out.bytes(), distance);
  });
}

absl::Status MpiCommunicator::Send(TensorView data, int peer, CollectiveCall call,
                                   StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/true,
             [=, this] { return mpi_.Send(peer, data.data, data.bytes()); });
}

absl::Status MpiCommunicator::Receive(TensorView data, int peer, CollectiveCall call,
                                      StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/true,
             [=, this] { return mpi_.Receive(peer, data.data, data.bytes()); });
}

absl::Status MpiCommunicator::Broadcast(TensorView data, int root, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false,
             [=, this] { return mpi_.Broadcast(data.data, data.bytes(), root); });
}

absl::Status MpiCommunicator::Barrier(CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, /*pairwise=*/false, [this] { return mpi_.Barrier(); });
}

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiCommunicatorOptions options) {
  return std::make_unique<MpiCommunicator>(std::move(options));
}

}  // namespace muster::parallel
