#include "parallel/comm/nccl_backend.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/cuda_runtime.h"
#include "kernels/device/memory.h"
#include "parallel/comm/call_tracker.h"
#include "parallel/comm/nccl_algorithms.h"
#include "parallel/comm/nccl_comm.h"
#include "parallel/comm/peer_exchange.h"
#include "parallel/comm/row_counts.h"

namespace muster::parallel {
namespace {

using kernels::StreamView;
using kernels::TensorView;

constexpr std::chrono::milliseconds kSetupDeadline{60'000};

class NcclCommunicator final : public Communicator, public Watchdog::Watched {
 public:
  explicit NcclCommunicator(NcclCommunicatorOptions options)
      : options_(std::move(options)),
        rank_(options_.rank),
        size_(static_cast<int>(options_.world_ranks.size())),
        tracker_(options_.device, options_.deadline->load(),
                 [](kernels::EventView event) { return kernels::cuda::IsReached(event.state()); }) {
  }
  ~NcclCommunicator() override;
  absl::Status Open();
  bool Look() override;

  absl::Status UseCopyEngines(const CopyMemory& memory) override;
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
  // Makes the call by `work`, between the tracker's marks.
  template <typename Work>
  absl::Status Run(CollectiveCall call, StreamView stream, Work work);
  absl::Status Break(const absl::Status& status, const CollectiveCall* call);
  absl::Status Warm(StreamView stream);
  absl::Status AwaitWork(StreamView stream, std::chrono::milliseconds patience);
  absl::StatusOr<std::vector<std::string>> Gather(const std::string& text,
                                                  std::chrono::milliseconds patience);

  const NcclCommunicatorOptions options_;
  const int rank_, size_;
  kernels::DeviceBuffer counts_;  // on the host: send counts, receive counts
  CallTracker tracker_;
  // Guards what follows; held while a call is made. The watchdog only tries it.
  std::mutex mutex_;
  std::unique_ptr<NcclAlgorithms> nccl_;
  std::unique_ptr<NcclComm> comm_;
  std::unique_ptr<PeerExchange> peers_;  // null: NCCL's kernels carry all
  absl::Status first_failure_;
};

NcclCommunicator::~NcclCommunicator() {
  options_.watchdog->Remove(this);
  if (comm_ == nullptr) return;
  if (peers_ != nullptr && !options_.world_failed->load()) {
    peers_->Unmap();
    // Nobody frees what another rank has mapped. One that failed has, and does not come.
    (void)Gather("x", options_.deadline->load());
  }
  // Peers of a failed world may never come to end this communicator together.
  if (options_.world_failed->load()) comm_->Abort();
  comm_.reset();
  // What has ended since the watchdog's last look.
  if (first_failure_.ok()) (void)tracker_.Poll(CallTracker::Clock::now());
}

absl::Status NcclCommunicator::Open() {
  const int64_t counts_bytes = 2 * size_ * static_cast<int64_t>(sizeof(int64_t));
  const kernels::Device device = options_.device;
  ASSIGN_OR_RETURN(
      nccl_, NcclAlgorithms::Create({.rank = rank_,
                                     .size = size_,
                                     .device = device,
                                     .sums_in_rank_order = options_.nccl.sums_in_rank_order}));
  ASSIGN_OR_RETURN(counts_, kernels::DeviceBuffer::AllocateHost(device, counts_bytes));
  ASSIGN_OR_RETURN(
      comm_, NcclComm::Create({.unique_id = options_.unique_id,
                               .name = options_.name,
                               .rank = rank_,
                               .size = size_,
                               .device = device,
                               .config = options_.nccl,
                               .deadline = std::max(options_.deadline->load(), kSetupDeadline)}));
  nccl_->Use(comm_.get());
  ASSIGN_OR_RETURN(const kernels::Stream stream,
                   kernels::Stream::Create(device, kernels::StreamMode::kQueue, "warm NCCL"));
  const absl::Status status = Warm(stream.view());
  if (!status.ok()) {
    options_.world_failed->store(true);
    return kernels::Annotate(status, "warming the NCCL communicator of group " + options_.name);
  }
  options_.watchdog->Add(this);
  return absl::OkStatus();
}

absl::Status NcclCommunicator::Warm(StreamView stream) {
  RETURN_IF_ERROR(nccl_->Warm(stream));
  return AwaitWork(stream, kSetupDeadline);
}

absl::Status NcclCommunicator::AwaitWork(StreamView stream, std::chrono::milliseconds patience) {
  ASSIGN_OR_RETURN(const kernels::Event end, kernels::Event::Create(options_.device));
  stream.Record(end.view());
  const auto deadline = CallTracker::Clock::now() + patience;
  while (CallTracker::Clock::now() < deadline) {
    ASSIGN_OR_RETURN(const bool reached, kernels::cuda::IsReached(end.view().state()));
    if (reached) return stream.Synchronize();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return absl::DeadlineExceededError("calls of the start or the end do not end");
}

absl::Status NcclCommunicator::UseCopyEngines(const CopyMemory& memory) {
  if (options_.nccl.cta_policy != NcclOptions::CtaPolicy::kZero) return absl::OkStatus();
  ASSIGN_OR_RETURN(auto peers, PeerExchange::Create({.group = options_.name,
                                                     .host = options_.host,
                                                     .rank = rank_,
                                                     .size = size_,
                                                     .device = options_.device,
                                                     .memory = memory,
                                                     .gather = [this](const auto& text) {
                                                       return Gather(text, kSetupDeadline);
                                                     }}));
  std::lock_guard lock(mutex_);
  peers_ = std::move(peers);
  return absl::OkStatus();
}

// Every rank's text, all of equal length; by NCCL itself. Blocks the host.
absl::StatusOr<std::vector<std::string>> NcclCommunicator::Gather(
    const std::string& text, std::chrono::milliseconds patience) {
  const auto bytes = static_cast<int64_t>(text.size());
  ASSIGN_OR_RETURN(auto stream,
                   kernels::Stream::Create(options_.device, kernels::StreamMode::kQueue, "peers"));
  ASSIGN_OR_RETURN(auto on_device, kernels::DeviceBuffer::Allocate(options_.device, bytes * size_));
  std::string all(static_cast<size_t>(bytes * size_), '\0');
  auto* const base = static_cast<char*>(on_device.data());
  kernels::CopyAsync(base + rank_ * bytes, text.data(), bytes, stream.view());
  const auto tensor = [&](char* data, int64_t size) {
    return TensorView(data, kernels::DType::kUInt8, {size}, options_.device);
  };
  {
    std::lock_guard lock(mutex_);
    RETURN_IF_ERROR(first_failure_);
    RETURN_IF_ERROR(nccl_->AllGather(tensor(base + rank_ * bytes, bytes),
                                     tensor(base, bytes * size_), stream.view()));
  }
  const absl::Status ended = AwaitWork(stream.view(), patience);
  if (!ended.ok()) {  // to give memory back would wait for what never ends
    std::lock_guard lock(mutex_);
    comm_->Abort();
    return ended;
  }
  kernels::CopyAsync(all.data(), base, bytes * size_, stream.view());
  RETURN_IF_ERROR(stream.view().Synchronize());
  std::vector<std::string> texts;
  for (int peer = 0; peer < size_; ++peer) {
    texts.push_back(all.substr(static_cast<size_t>(peer * bytes), static_cast<size_t>(bytes)));
  }
  return texts;
}

bool NcclCommunicator::Look() {
  // Busy: a call is being made, under its own deadline.
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return true;
  if (!first_failure_.ok()) return false;
  kernels::cuda::MakeCurrent(options_.device);
  absl::Status status = comm_->AsyncError();
  tracker_.SetDeadline(*options_.deadline);
  if (status.ok()) status = tracker_.Poll(CallTracker::Clock::now());
  const std::optional<CollectiveCall> oldest = tracker_.Oldest();
  if (!status.ok()) (void)Break(status, oldest ? &*oldest : nullptr);
  return status.ok() && oldest.has_value();
}

// With mutex_ held. `call`: the one that failed, if one is known.
absl::Status NcclCommunicator::Break(const absl::Status& status, const CollectiveCall* call) {
  std::string message = call != nullptr ? call->what : "group " + options_.name;
  absl::StrAppend(&message, " failed on world rank ",
                  options_.world_ranks[static_cast<size_t>(rank_)], ": ");
  if (absl::IsDeadlineExceeded(status)) {
    absl::StrAppend(&message, "not done within ", options_.deadline->load().count(), " ms, ");
  }
  absl::StrAppend(&message, status.message());
  if (call != nullptr) absl::StrAppend(&message, "\n", call->log->DescribePending());
  first_failure_ = absl::Status(status.code(), message);
  options_.world_failed->store(true);
  // Ended calls are not failed with the rest: their streams may be gone.
  (void)tracker_.Poll(CallTracker::Clock::now());
  // Before the abort, which lets waiting hosts go on: they must find the error.
  tracker_.FailAll(first_failure_);
  if (peers_ != nullptr) peers_->copies().Release();
  comm_->Abort();
  return first_failure_;
}

template <typename Work>
absl::Status NcclCommunicator::Run(CollectiveCall call, StreamView stream, Work work) {
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(first_failure_);
  kernels::cuda::MakeCurrent(options_.device);
  comm_->set_deadline(*options_.deadline);
  ASSIGN_OR_RETURN(CallTracker::Ticket ticket, tracker_.Begin(std::move(call), stream));
  const absl::Status status = work();
  if (!status.ok()) {
    stream.Fail(Break(status, &ticket.call));
    return first_failure_;
  }
  tracker_.End(std::move(ticket));
  options_.watchdog->Wake();
  return absl::OkStatus();
}

absl::Status NcclCommunicator::AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->AllReduce(data, op, stream); });
}

absl::Status NcclCommunicator::ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                             CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [&] {
    if (peers_ != nullptr && op == ReduceOp::kSum) {
      return peers_->copies().ReduceScatter(in, out, stream);
    }
    return nccl_->ReduceScatter(in, out, op, stream);
  });
}

absl::Status NcclCommunicator::AllGather(TensorView in, TensorView out, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&] {
    if (peers_ != nullptr && peers_->copies().CanGather(out)) {
      return peers_->copies().AllGather(in, out, stream);
    }
    return nccl_->AllGather(in, out, stream);
  });
}

absl::Status NcclCommunicator::AllToAll(TensorView in, TensorView out, TensorView send_counts,
                                        TensorView receive_counts, CollectiveCall call,
                                        StreamView stream) {
  // Before the lock: if the stream hangs in an earlier call, the watchdog has to get at it.
  auto* counts = static_cast<int64_t*>(counts_.data());
  kernels::CopyAsync(counts, send_counts.data, send_counts.bytes(), stream);
  kernels::CopyAsync(counts + size_, receive_counts.data, receive_counts.bytes(), stream);
  RETURN_IF_ERROR(stream.Synchronize());
  const RowCounts rows{counts, counts + size_, size_, rank_};
  int64_t row_bytes = kernels::SizeOf(in.dtype);
  for (int dim = 1; dim < in.rank(); ++dim) row_bytes *= in.shape[dim];
  return Run(std::move(call), stream, [&]() -> absl::Status {
    RETURN_IF_ERROR(rows.Check(in.shape[0], out.shape[0]));
    return nccl_->ExchangeRows(in.data, out.data, rows.send, rows.receive, row_bytes, stream);
  });
}

absl::Status NcclCommunicator::AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                                             StreamView stream) {
  const std::vector<int64_t> counts(static_cast<size_t>(size_), in.num_elements() / size_);
  return Run(std::move(call), stream, [&] {
    return nccl_->ExchangeRows(in.data, out.data, counts.data(), counts.data(),
                               kernels::SizeOf(in.dtype), stream);
  });
}

absl::Status NcclCommunicator::Shift(TensorView in, TensorView out, int distance,
                                     CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->Shift(in, out, distance, stream); });
}

absl::Status NcclCommunicator::Send(TensorView data, int peer, CollectiveCall call,
                                    StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->Send(data, peer, stream); });
}

absl::Status NcclCommunicator::Receive(TensorView data, int peer, CollectiveCall call,
                                       StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->Receive(data, peer, stream); });
}

absl::Status NcclCommunicator::Broadcast(TensorView data, int root, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->Broadcast(data, root, stream); });
}

absl::Status NcclCommunicator::Barrier(CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [&] { return nccl_->Barrier(stream); });
}

}  // namespace

absl::Status PrepareNccl(kernels::Device device, const NcclOptions& options) {
  const int num_devices = kernels::DeviceCount(device.type);
  if (device.index >= num_devices) {
    return absl::FailedPreconditionError(
        kernels::Name(device) + " was asked for, but this process sees " +
        std::to_string(num_devices) +
        " CUDA devices; start one rank per GPU, or look at CUDA_VISIBLE_DEVICES");
  }
  return NcclComm::Prepare(options.nvls);
}

absl::StatusOr<std::string> NewNcclId() { return NcclComm::NewUniqueId(); }

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    NcclCommunicatorOptions options) {
  auto communicator = std::make_unique<NcclCommunicator>(std::move(options));
  RETURN_IF_ERROR(communicator->Open());
  return communicator;
}

}  // namespace muster::parallel
