#include "parallel/comm/nccl_backend.h"

#include <nccl.h>

#include <algorithm>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/cuda_runtime.h"
#include "kernels/device/memory.h"
#include "parallel/comm/call_tracker.h"
#include "parallel/comm/device_reduce.h"
#include "parallel/comm/nccl_comm.h"
#include "parallel/comm/row_counts.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using kernels::SizeOf;
using kernels::StreamView;
using kernels::TensorView;

constexpr int64_t kStagingBytes = int64_t{1} << 20;  // per rank of the group
constexpr std::chrono::milliseconds kSetupDeadline{60'000};

ncclDataType_t ToNccl(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kBFloat16:
      return ncclBfloat16;
    case DType::kFloat64:
      return ncclFloat64;
    case DType::kInt32:
      return ncclInt32;
    case DType::kInt64:
      return ncclInt64;
    case DType::kUInt8:
      return ncclUint8;
  }
  return ncclNumTypes;
}

char* At(const void* base, int64_t bytes) {
  return const_cast<char*>(static_cast<const char*>(base)) + bytes;
}
size_t Size(int64_t count) { return static_cast<size_t>(count); }
// Of a call inside a group: what is in progress is made when the group ends.
bool Failed(ncclResult_t result) { return result != ncclSuccess && result != ncclInProgress; }
cudaStream_t Native(StreamView stream) { return static_cast<cudaStream_t>(stream.native_handle()); }

class NcclCommunicator final : public Communicator, public Watchdog::Watched {
 public:
  explicit NcclCommunicator(NcclCommunicatorOptions options)
      : options_(std::move(options)),
        rank_(options_.rank),
        size_(static_cast<int>(options_.world_ranks.size())),
        tracker_(options_.device, options_.deadline,
                 [](kernels::EventView event) { return kernels::cuda::IsReached(event.state()); }) {
  }
  ~NcclCommunicator() override;
  absl::Status Open();
  bool Look() override;

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

  // The following make NCCL's calls, on the caller's stream. NCCL launches behind the caller's
  // back, so each returns only once it has been launched: work enqueued next must come after it.
  absl::Status Made(ncclResult_t result) { return comm_->Settle(result); }
  template <typename Calls>
  absl::Status MadeTogether(Calls calls);
  bool ReducesInRankOrder(ReduceOp op) const {
    return op == ReduceOp::kMax || options_.sums_in_rank_order;
  }
  absl::Status ReduceAll(TensorView data, ReduceOp op, StreamView stream);
  absl::Status ReduceParts(TensorView in, TensorView out, ReduceOp op, StreamView stream);
  absl::Status ExchangeRows(const void* in, void* out, const int64_t* send_counts,
                            const int64_t* receive_counts, int64_t row_bytes, StreamView stream);
  absl::Status AddToken(StreamView stream);

  const NcclCommunicatorOptions options_;
  const int rank_, size_;
  kernels::DeviceBuffer staging_;  // one part of kStagingBytes per rank
  kernels::DeviceBuffer token_;    // an int32 that barriers add
  kernels::DeviceBuffer counts_;   // on the host: send counts, receive counts
  CallTracker tracker_;
  // Guards what follows; held while a call is made. The watchdog only tries it.
  std::mutex mutex_;
  std::unique_ptr<NcclComm> comm_;
  absl::Status first_failure_;
};

NcclCommunicator::~NcclCommunicator() {
  options_.watchdog->Remove(this);
  if (comm_ == nullptr) return;
  // Peers of a failed world may never come to end this communicator together.
  if (options_.world_failed->load()) comm_->Abort();
  comm_.reset();
  // What has ended since the watchdog's last look.
  if (first_failure_.ok()) (void)tracker_.Poll(CallTracker::Clock::now());
}

absl::Status NcclCommunicator::Open() {
  const int64_t counts_bytes = 2 * size_ * static_cast<int64_t>(sizeof(int64_t));
  const kernels::Device device = options_.device;
  ASSIGN_OR_RETURN(staging_, kernels::DeviceBuffer::Allocate(device, kStagingBytes * size_));
  ASSIGN_OR_RETURN(token_, kernels::DeviceBuffer::Allocate(device, sizeof(int32_t)));
  ASSIGN_OR_RETURN(counts_, kernels::DeviceBuffer::AllocateHost(device, counts_bytes));
  ASSIGN_OR_RETURN(comm_,
                   NcclComm::Create({.unique_id = options_.unique_id,
                                     .name = options_.name,
                                     .rank = rank_,
                                     .size = size_,
                                     .device = device,
                                     .max_ctas = options_.max_ctas,
                                     .deadline = std::max(options_.deadline, kSetupDeadline)}));
  ASSIGN_OR_RETURN(const kernels::Stream stream,
                   kernels::Stream::Create(device, kernels::StreamMode::kQueue, "warm NCCL"));
  ASSIGN_OR_RETURN(const kernels::Event end, kernels::Event::Create(device));
  absl::Status status = Warm(stream.view());
  if (status.ok()) {
    stream.view().Record(end.view());
    const auto deadline = CallTracker::Clock::now() + kSetupDeadline;
    for (bool reached = false; status.ok() && !reached;) {
      if (CallTracker::Clock::now() > deadline) {
        status = absl::DeadlineExceededError("the first calls do not end");
        break;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      const absl::StatusOr<bool> asked = kernels::cuda::IsReached(end.view().state());
      status = asked.status();
      reached = asked.ok() && *asked;
    }
  }
  if (!status.ok()) {
    options_.world_failed->store(true);
    return kernels::Annotate(status, "warming the NCCL communicator of group " + options_.name);
  }
  comm_->set_deadline(options_.deadline);
  options_.watchdog->Add(this);
  return stream.view().Synchronize();
}

// One call of each kind: the first of a kind opens connections and takes memory.
absl::Status NcclCommunicator::Warm(StreamView stream) {
  constexpr int64_t kCount = 1024;
  const TensorView whole(staging_.data(), DType::kFloat32, {kCount * size_}, options_.device);
  const TensorView own = whole.Slice(0, rank_ * kCount, (rank_ + 1) * kCount);
  const std::vector<int64_t> counts(Size(size_), kCount / size_);
  RETURN_IF_ERROR(AddToken(stream));
  RETURN_IF_ERROR(Made(ncclReduceScatter(whole.data, own.data, Size(kCount), ncclFloat32, ncclSum,
                                         comm_->get(), Native(stream))));
  RETURN_IF_ERROR(Made(ncclAllGather(own.data, whole.data, Size(kCount), ncclFloat32, comm_->get(),
                                     Native(stream))));
  RETURN_IF_ERROR(Made(ncclBroadcast(whole.data, whole.data, Size(kCount), ncclFloat32, /*root=*/0,
                                     comm_->get(), Native(stream))));
  RETURN_IF_ERROR(ExchangeRows(whole.data, At(whole.data, kStagingBytes), counts.data(),
                               counts.data(), SizeOf(DType::kFloat32), stream));
  // Our own kernels too: loading one may wait for the device, and so for other ranks.
  for (const DType dtype :
       {DType::kFloat32, DType::kBFloat16, DType::kFloat64, DType::kInt32, DType::kInt64}) {
    RETURN_IF_ERROR(ReduceOnDevice(dtype, ReduceOp::kMax, staging_.data(), /*stride=*/1, size_,
                                   At(staging_.data(), kStagingBytes), /*count=*/1, stream));
  }
  return absl::OkStatus();
}

bool NcclCommunicator::Look() {
  // Busy: a call is being made, under its own deadline.
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return true;
  if (!first_failure_.ok()) return false;
  absl::Status status = kernels::cuda::MakeCurrent(options_.device);
  if (status.ok()) status = comm_->AsyncError();
  if (status.ok()) status = tracker_.Poll(CallTracker::Clock::now());
  const std::optional<CollectiveCall> oldest = tracker_.Oldest();
  if (!status.ok()) (void)Break(status, oldest ? &*oldest : nullptr);
  return status.ok() && oldest.has_value();
}

// With mutex_ held. `call`: the one that failed, if one is known.
absl::Status NcclCommunicator::Break(const absl::Status& status, const CollectiveCall* call) {
  std::string message = call != nullptr ? call->what : "group " + options_.name;
  message += " failed on world rank " + std::to_string(options_.world_ranks[Size(rank_)]) + ": ";
  if (absl::IsDeadlineExceeded(status)) {
    message += "not done within " + std::to_string(options_.deadline.count()) + " ms, ";
  }
  message += std::string(status.message());
  if (call != nullptr) message += "\n" + call->log->DescribePending();
  first_failure_ = absl::Status(status.code(), message);
  options_.world_failed->store(true);
  // Before the abort, which lets waiting hosts go on: they must find the error.
  tracker_.FailAll(first_failure_);
  comm_->Abort();
  return first_failure_;
}

template <typename Work>
absl::Status NcclCommunicator::Run(CollectiveCall call, StreamView stream, Work work) {
  std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(first_failure_);
  RETURN_IF_ERROR(kernels::cuda::MakeCurrent(options_.device));
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

template <typename Calls>
absl::Status NcclCommunicator::MadeTogether(Calls calls) {
  RETURN_IF_ERROR(Made(ncclGroupStart()));
  const ncclResult_t inside = calls();
  const ncclResult_t result = ncclGroupEnd();  // whatever happened, the group must end
  return Made(Failed(inside) ? inside : result);
}

absl::Status NcclCommunicator::ReduceAll(TensorView data, ReduceOp op, StreamView stream) {
  const int64_t count = data.num_elements(), element = SizeOf(data.dtype);
  if (count == 0) return absl::OkStatus();
  if (!ReducesInRankOrder(op)) {
    return Made(ncclAllReduce(data.data, data.data, Size(count), ToNccl(data.dtype), ncclSum,
                              comm_->get(), Native(stream)));
  }
  const int64_t window = kStagingBytes / element;
  for (int64_t begin = 0; begin < count; begin += window) {
    const int64_t size = std::min(window, count - begin);
    char* place = At(data.data, begin * element);
    RETURN_IF_ERROR(Made(ncclAllGather(place, staging_.data(), Size(size * element), ncclUint8,
                                       comm_->get(), Native(stream))));
    RETURN_IF_ERROR(
        ReduceOnDevice(data.dtype, op, staging_.data(), size, size_, place, size, stream));
  }
  return absl::OkStatus();
}

// `out` has the size of a part, and may be this rank's part of `in`.
absl::Status NcclCommunicator::ReduceParts(TensorView in, TensorView out, ReduceOp op,
                                           StreamView stream) {
  const int64_t part = out.num_elements(), element = SizeOf(in.dtype);
  if (part == 0) return absl::OkStatus();
  if (!ReducesInRankOrder(op)) {
    return Made(ncclReduceScatter(in.data, out.data, Size(part), ToNccl(in.dtype), ncclSum,
                                  comm_->get(), Native(stream)));
  }
  const int64_t window = kStagingBytes / element;
  for (int64_t begin = 0; begin < part; begin += window) {
    const int64_t size = std::min(window, part - begin), bytes = size * element;
    RETURN_IF_ERROR(MadeTogether([&] {
      ncclResult_t result = ncclSuccess;
      for (int peer = 0; peer < size_ && !Failed(result); ++peer) {
        result = ncclSend(At(in.data, (peer * part + begin) * element), Size(bytes), ncclUint8,
                          peer, comm_->get(), Native(stream));
        if (Failed(result)) break;
        result = ncclRecv(At(staging_.data(), peer * bytes), Size(bytes), ncclUint8, peer,
                          comm_->get(), Native(stream));
      }
      return result;
    }));
    RETURN_IF_ERROR(ReduceOnDevice(in.dtype, op, staging_.data(), size, size_,
                                   At(out.data, begin * element), size, stream));
  }
  return absl::OkStatus();
}

// Own rows are copied; an exchange of no rows between two ranks is left out on both.
absl::Status NcclCommunicator::ExchangeRows(const void* in, void* out, const int64_t* send_counts,
                                            const int64_t* receive_counts, int64_t row_bytes,
                                            StreamView stream) {
  int64_t own_sent = 0, own_received = 0;
  RETURN_IF_ERROR(MadeTogether([&] {
    int64_t sent = 0, received = 0;
    for (int peer = 0; peer < size_; ++peer) {
      const int64_t send = send_counts[peer] * row_bytes,
                    receive = receive_counts[peer] * row_bytes;
      if (peer == rank_) {
        own_sent = sent;
        own_received = received;
      }
      ncclResult_t result = ncclSuccess;
      if (peer != rank_ && send > 0) {
        result = ncclSend(At(in, sent), Size(send), ncclUint8, peer, comm_->get(), Native(stream));
      }
      if (!Failed(result) && peer != rank_ && receive > 0) {
        result = ncclRecv(At(out, received), Size(receive), ncclUint8, peer, comm_->get(),
                          Native(stream));
      }
      if (Failed(result)) return result;
      sent += send;
      received += receive;
    }
    return ncclSuccess;
  }));
  const int64_t own_bytes = send_counts[rank_] * row_bytes;
  char *from = At(in, own_sent), *to = At(out, own_received);
  if (own_bytes == 0 || from == to) return absl::OkStatus();
  return kernels::cuda::CopyAsync(to, from, own_bytes, stream);
}

absl::Status NcclCommunicator::AddToken(StreamView stream) {
  return Made(ncclAllReduce(token_.data(), token_.data(), 1, ncclInt32, ncclSum, comm_->get(),
                            Native(stream)));
}

absl::Status NcclCommunicator::AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&] { return ReduceAll(data, op, stream); });
}

absl::Status NcclCommunicator::ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                             CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [&] { return ReduceParts(in, out, op, stream); });
}

absl::Status NcclCommunicator::AllGather(TensorView in, TensorView out, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&]() -> absl::Status {
    if (in.bytes() == 0) return absl::OkStatus();
    return Made(ncclAllGather(in.data, out.data, Size(in.bytes()), ncclUint8, comm_->get(),
                              Native(stream)));
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
  const absl::Status fits = rows.Check(in.shape[0], out.shape[0]);
  int64_t row_bytes = SizeOf(in.dtype);
  for (int dim = 1; dim < in.rank(); ++dim) row_bytes *= in.shape[dim];
  return Run(std::move(call), stream, [&]() -> absl::Status {
    RETURN_IF_ERROR(fits);
    return ExchangeRows(in.data, out.data, counts, counts + size_, row_bytes, stream);
  });
}

absl::Status NcclCommunicator::AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                                             StreamView stream) {
  return Run(std::move(call), stream, [&] {
    const std::vector<int64_t> counts(Size(size_), in.num_elements() / size_);
    return ExchangeRows(in.data, out.data, counts.data(), counts.data(), SizeOf(in.dtype), stream);
  });
}

absl::Status NcclCommunicator::Send(TensorView data, int peer, CollectiveCall call,
                                    StreamView stream) {
  return Run(std::move(call), stream, [&]() -> absl::Status {
    if (data.bytes() == 0) return absl::OkStatus();
    return Made(
        ncclSend(data.data, Size(data.bytes()), ncclUint8, peer, comm_->get(), Native(stream)));
  });
}

absl::Status NcclCommunicator::Receive(TensorView data, int peer, CollectiveCall call,
                                       StreamView stream) {
  return Run(std::move(call), stream, [&]() -> absl::Status {
    if (data.bytes() == 0) return absl::OkStatus();
    return Made(
        ncclRecv(data.data, Size(data.bytes()), ncclUint8, peer, comm_->get(), Native(stream)));
  });
}

absl::Status NcclCommunicator::Broadcast(TensorView data, int root, CollectiveCall call,
                                         StreamView stream) {
  return Run(std::move(call), stream, [&]() -> absl::Status {
    if (data.bytes() == 0) return absl::OkStatus();
    return Made(ncclBroadcast(data.data, data.data, Size(data.bytes()), ncclUint8, root,
                              comm_->get(), Native(stream)));
  });
}

absl::Status NcclCommunicator::Barrier(CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [&] { return AddToken(stream); });
}

}  // namespace

absl::Status PrepareNccl(kernels::Device device) {
  const int num_devices = kernels::DeviceCount(device.type);
  if (device.index >= num_devices) {
    return absl::FailedPreconditionError(
        kernels::Name(device) + " was asked for, but this process sees " +
        std::to_string(num_devices) +
        " CUDA devices; start one rank per GPU, or look at CUDA_VISIBLE_DEVICES");
  }
  return NcclComm::Prepare();
}

absl::StatusOr<std::string> NewNcclId() { return NcclComm::NewUniqueId(); }

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    NcclCommunicatorOptions options) {
  auto communicator = std::make_unique<NcclCommunicator>(std::move(options));
  RETURN_IF_ERROR(communicator->Open());
  return communicator;
}

}  // namespace muster::parallel
