#include "parallel/comm/mpi_backend.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/memory.h"
#include "parallel/comm/rank_order_reduce.h"

namespace muster::parallel {
namespace {

using kernels::DeviceBuffer;
using kernels::DType;
using kernels::SizeOf;
using kernels::StreamView;
using kernels::TensorView;

// A reduction's unit of transfer per peer: one window is summed while the next is under way.
constexpr int64_t kWindowBytes = 512 << 10;
constexpr int kPointToPointTag = 0;
constexpr int kCollectiveTags = 32'000;  // MPI guarantees tags up to 32767

char* At(const void* data, int64_t offset) {
  return static_cast<char*>(const_cast<void*>(data)) + offset;
}

void CopyUnlessSame(void* destination, const void* source, int64_t bytes) {
  if (destination != source && bytes > 0) {
    std::memcpy(destination, source, static_cast<size_t>(bytes));
  }
}

// `total` elements cut into `count` parts by rank order; the first ones take the remainder.
struct Parts {
  int64_t total;
  int count;
  int64_t begin(int part) const {
    return total / count * part + std::min<int64_t>(part, total % count);
  }
  int64_t size(int part) const { return begin(part + 1) - begin(part); }
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MpiCommunicatorOptions options)
      : options_(std::move(options)),
        rank_(options_.rank),
        size_(static_cast<int>(options_.world_ranks.size())),
        exchange_(options_.communicator, options_.world_ranks),
        next_exchange_(options_.communicator, options_.world_ranks) {}
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
  absl::Status Send(TensorView data, int peer, CollectiveCall call, StreamView stream) override;
  absl::Status Receive(TensorView data, int peer, CollectiveCall call, StreamView stream) override;
  absl::Status Broadcast(TensorView data, int root, CollectiveCall call,
                         StreamView stream) override;
  absl::Status Barrier(CollectiveCall call, StreamView stream) override;

 private:
  // Enqueues `work`, a callable that returns a Status, between the log's marks.
  template <typename Work>
  absl::Status Run(CollectiveCall call, StreamView stream, Work work);
  void Begin(MpiExchange& exchange) { exchange.Begin(tag_, deadline_); }
  void BeginCollective();
  absl::Status FirstFailure();
  absl::Status Break(const absl::Status& status, const CollectiveCall& call);
  // Sleeps for what the injected link adds to messages sent one after the other.
  void Delay(int64_t num_messages, int64_t bytes) const;
  absl::Status ReserveStaging(int64_t bytes);
  int PeerAt(int distance) const { return (rank_ + distance + size_) % size_; }

  absl::Status ReduceParts(const void* in, void* out, DType dtype, ReduceOp op, Parts parts);
  void PostWindow(MpiExchange& exchange, int slot, int64_t window, const void* in,
                  int64_t element_bytes, Parts parts);
  absl::Status GatherParts(const void* own, void* out, int64_t element_bytes, Parts parts);
  absl::Status ReduceSmall(void* data, DType dtype, ReduceOp op, int64_t count);
  absl::Status ExchangeRows(TensorView in, TensorView out, const int64_t* send_counts,
                            const int64_t* receive_counts);
  absl::Status BroadcastTree(TensorView data, int root);
  absl::Status Disseminate();

  const MpiCommunicatorOptions options_;
  const int rank_, size_;
  MpiExchange exchange_, next_exchange_;
  DeviceBuffer staging_;
  std::vector<const void*> sources_;  // of one reduction, by rank
  int tag_ = 0, num_collectives_ = 0;
  MpiExchange::Clock::time_point deadline_;
  std::mutex mutex_;  // guards first_failure_: the host asks while a stream's thread works
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

absl::Status MpiCommunicator::Break(const absl::Status& status, const CollectiveCall& call) {
  std::string message = call.what + " failed on world rank " +
                        std::to_string(options_.world_ranks[static_cast<size_t>(rank_)]) + ": ";
  if (absl::IsDeadlineExceeded(status)) {
    message += "not done within " + std::to_string(options_.deadline.count()) + " ms, ";
  }
  message += std::string(status.message()) + "\n" + call.log->DescribePending();
  exchange_.Abandon();
  next_exchange_.Abandon();
  std::lock_guard lock(mutex_);
  first_failure_ = absl::Status(status.code(), message);
  options_.world_failed->store(true);
  return first_failure_;
}

template <typename Work>
absl::Status MpiCommunicator::Run(CollectiveCall call, StreamView stream, Work work) {
  RETURN_IF_ERROR(FirstFailure());
  stream.Enqueue([this, stream, call = std::move(call), work = std::move(work)] {
    call.log->Started(call.id);
    absl::Status status = FirstFailure();
    if (status.ok()) {
      deadline_ = MpiExchange::Clock::now() + options_.deadline;
      status = work();
      if (!status.ok()) status = Break(status, call);
    }
    call.log->Done(call.id, status.ok());
    if (!status.ok()) stream.Fail(status);
  });
  return FirstFailure();
}

// Collectives are counted, so that a message can only be taken by the call it was sent in.
void MpiCommunicator::BeginCollective() {
  num_collectives_ = (num_collectives_ + 1) % kCollectiveTags;
  tag_ = 1 + num_collectives_;
}

void MpiCommunicator::Delay(int64_t num_messages, int64_t bytes) const {
  const auto delay = options_.injected_link.TimeOf(num_messages, bytes);
  if (delay.count() > 0) std::this_thread::sleep_for(delay);
}

absl::Status MpiCommunicator::ReserveStaging(int64_t bytes) {
  if (staging_.bytes() >= bytes) return absl::OkStatus();
  ASSIGN_OR_RETURN(staging_, DeviceBuffer::Allocate(kernels::Device{}, bytes));
  return absl::OkStatus();
}

// --- algorithms, run by the stream's thread
// -------------------------------------------------------

// Part p of `in` is rank p's to reduce. Window by window, so that staging stays small and a window
// is summed from the cache; `out` may be this rank's part of `in`, which is never sent.
absl::Status MpiCommunicator::ReduceParts(const void* in, void* out, DType dtype, ReduceOp op,
                                          Parts parts) {
  const int64_t element_bytes = SizeOf(dtype), own_size = parts.size(rank_);
  const int64_t window_size = kWindowBytes / element_bytes;
  const int64_t largest = parts.size(0);  // the first part takes the remainder
  const int64_t slot_bytes = std::min(window_size, largest) * element_bytes * size_;
  RETURN_IF_ERROR(ReserveStaging(2 * slot_bytes));
  Delay(size_ - 1, (parts.total - own_size) * element_bytes);
  sources_.resize(static_cast<size_t>(size_));
  MpiExchange* slots[] = {&exchange_, &next_exchange_};
  const int64_t num_windows = (largest + window_size - 1) / window_size;
  if (num_windows > 0) PostWindow(exchange_, 0, 0, in, element_bytes, parts);
  for (int64_t window = 0; window < num_windows; ++window) {
    const int slot = static_cast<int>(window % 2);
    if (window + 1 < num_windows) {
      PostWindow(*slots[1 - slot], 1 - slot, window + 1, in, element_bytes, parts);
    }
    RETURN_IF_ERROR(slots[slot]->Wait());
    const int64_t begin = window * window_size;
    const int64_t size = std::min(window_size, own_size - begin);
    if (size <= 0) continue;
    const char* arrived = At(staging_.data(), slot * slot_bytes);
    for (int peer = 0; peer < size_; ++peer) {
      sources_[static_cast<size_t>(peer)] =
          peer == rank_ ? At(in, (parts.begin(rank_) + begin) * element_bytes)
                        : At(arrived, peer * (slot_bytes / size_));
    }
    ReduceInRankOrder(dtype, op, sources_.data(), size_, At(out, begin * element_bytes), size);
  }
  return absl::OkStatus();
}

void MpiCommunicator::PostWindow(MpiExchange& exchange, int slot, int64_t window, const void* in,
                                 int64_t element_bytes, Parts parts) {
  const int64_t window_size = kWindowBytes / element_bytes, begin = window * window_size;
  const int64_t row_bytes = std::min(window_size, parts.size(0)) * element_bytes;
  const auto bytes_of = [&](int part) {
    return std::clamp<int64_t>(parts.size(part) - begin, 0, window_size) * element_bytes;
  };
  Begin(exchange);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance), target = PeerAt(distance);
    exchange.Receive(source, At(staging_.data(), (slot * size_ + source) * row_bytes),
                     bytes_of(rank_));
    exchange.Send(target, At(in, (parts.begin(target) + begin) * element_bytes), bytes_of(target));
  }
}

absl::Status MpiCommunicator::GatherParts(const void* own, void* out, int64_t element_bytes,
                                          Parts parts) {
  const auto place = [&](int part) { return At(out, parts.begin(part) * element_bytes); };
  const int64_t own_bytes = parts.size(rank_) * element_bytes;
  CopyUnlessSame(place(rank_), own, own_bytes);
  Delay(size_ - 1, (size_ - 1) * own_bytes);
  Begin(exchange_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance);
    exchange_.Receive(source, place(source), parts.size(source) * element_bytes);
    exchange_.Send(PeerAt(distance), place(rank_), own_bytes);
  }
  return exchange_.Wait();
}

// Everybody gets every contribution and reduces all of it: the same order, hence the same bits.
absl::Status MpiCommunicator::ReduceSmall(void* data, DType dtype, ReduceOp op, int64_t count) {
  const int64_t bytes = count * SizeOf(dtype);
  RETURN_IF_ERROR(ReserveStaging(kSmallAllReduceBytes * size_));
  Delay(size_ - 1, (size_ - 1) * bytes);
  sources_.resize(static_cast<size_t>(size_));
  sources_[static_cast<size_t>(rank_)] = data;
  Begin(exchange_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance);
    void* arrived = At(staging_.data(), source * kSmallAllReduceBytes);
    sources_[static_cast<size_t>(source)] = arrived;
    exchange_.Receive(source, arrived, bytes);
    exchange_.Send(PeerAt(distance), data, bytes);
  }
  RETURN_IF_ERROR(exchange_.Wait());
  ReduceInRankOrder(dtype, op, sources_.data(), size_, data, count);
  return absl::OkStatus();
}

// Fails before anything is sent if this rank's own counts cannot be right.
absl::Status CheckCounts(const char* what, const int64_t* counts, int size, int64_t rows) {
  int64_t sum = 0;
  for (int peer = 0; peer < size; ++peer) {
    if (counts[peer] < 0 || counts[peer] > rows - sum) {
      return absl::InvalidArgumentError(std::string(what) + "[" + std::to_string(peer) +
                                        "] = " + std::to_string(counts[peer]) + " after " +
                                        std::to_string(sum) + " rows does not fit a tensor of " +
                                        std::to_string(rows) + " rows");
    }
    sum += counts[peer];
  }
  return absl::OkStatus();
}

absl::Status MpiCommunicator::ExchangeRows(TensorView in, TensorView out,
                                           const int64_t* send_counts,
                                           const int64_t* receive_counts) {
  RETURN_IF_ERROR(CheckCounts("send_counts", send_counts, size_, in.shape[0]));
  RETURN_IF_ERROR(CheckCounts("receive_counts", receive_counts, size_, out.shape[0]));
  if (send_counts[rank_] != receive_counts[rank_]) {
    return absl::InvalidArgumentError("this rank sends itself " +
                                      std::to_string(send_counts[rank_]) + " rows but expects " +
                                      std::to_string(receive_counts[rank_]));
  }
  int64_t row_bytes = SizeOf(in.dtype);
  for (int dim = 1; dim < in.rank(); ++dim) row_bytes *= in.shape[dim];
  std::vector<int64_t> send_begin(static_cast<size_t>(size_) + 1, 0), receive_begin = send_begin;
  for (size_t peer = 0; peer < static_cast<size_t>(size_); ++peer) {
    send_begin[peer + 1] = send_begin[peer] + send_counts[peer] * row_bytes;
    receive_begin[peer + 1] = receive_begin[peer] + receive_counts[peer] * row_bytes;
  }
  const size_t self = static_cast<size_t>(rank_);
  CopyUnlessSame(At(out.data, receive_begin[self]), At(in.data, send_begin[self]),
                 send_counts[rank_] * row_bytes);
  Delay(size_ - 1, std::max(send_begin.back() - send_counts[rank_] * row_bytes,
                            receive_begin.back() - receive_counts[rank_] * row_bytes));
  Begin(exchange_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance), target = PeerAt(distance);
    exchange_.Receive(source, At(out.data, receive_begin[static_cast<size_t>(source)]),
                      receive_counts[source] * row_bytes);
    exchange_.Send(target, At(in.data, send_begin[static_cast<size_t>(target)]),
                   send_counts[target] * row_bytes);
  }
  return exchange_.Wait();
}

// A binomial tree over ranks counted from the root: rank r gets the data from r without its highest
// bit, and hands it on to r + 2^k for every 2^k > r.
absl::Status MpiCommunicator::BroadcastTree(TensorView data, int root) {
  const int place = (rank_ - root + size_) % size_;
  int bit = 1;
  while (bit <= place) bit *= 2;
  if (place > 0) {
    Begin(exchange_);
    exchange_.Receive((place - bit / 2 + root) % size_, data.data, data.bytes());
    RETURN_IF_ERROR(exchange_.Wait());
  }
  for (; place + bit < size_; bit *= 2) {
    Delay(1, data.bytes());
    Begin(exchange_);
    exchange_.Send((place + bit + root) % size_, data.data, data.bytes());
    RETURN_IF_ERROR(exchange_.Wait());
  }
  return absl::OkStatus();
}

// Round k tells rank + 2^k; after ceil(log2 n) rounds everybody has heard, at least at second hand,
// of everybody (Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization", 1988).
absl::Status MpiCommunicator::Disseminate() {
  for (int distance = 1; distance < size_; distance *= 2) {
    Delay(1, 0);
    Begin(exchange_);
    exchange_.Receive(PeerAt(-distance), nullptr, 0);
    exchange_.Send(PeerAt(distance), nullptr, 0);
    RETURN_IF_ERROR(exchange_.Wait());
  }
  return absl::OkStatus();
}

// --- calls
// ----------------------------------------------------------------------------------------

absl::Status MpiCommunicator::AllReduce(TensorView data, ReduceOp op, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, [=, this]() -> absl::Status {
    BeginCollective();
    const int64_t count = data.num_elements();
    if (data.bytes() <= kSmallAllReduceBytes) return ReduceSmall(data.data, data.dtype, op, count);
    const Parts parts{count, size_};
    void* own = At(data.data, parts.begin(rank_) * SizeOf(data.dtype));
    RETURN_IF_ERROR(ReduceParts(data.data, own, data.dtype, op, parts));
    return GatherParts(own, data.data, SizeOf(data.dtype), parts);
  });
}

absl::Status MpiCommunicator::ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                            CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    BeginCollective();
    return ReduceParts(in.data, out.data, in.dtype, op, {in.num_elements(), size_});
  });
}

absl::Status MpiCommunicator::AllGather(TensorView in, TensorView out, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    BeginCollective();
    return GatherParts(in.data, out.data, SizeOf(in.dtype), {out.num_elements(), size_});
  });
}

absl::Status MpiCommunicator::AllToAll(TensorView in, TensorView out, TensorView send_counts,
                                       TensorView receive_counts, CollectiveCall call,
                                       StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    BeginCollective();
    return ExchangeRows(in, out, send_counts.as<int64_t>(), receive_counts.as<int64_t>());
  });
}

absl::Status MpiCommunicator::AllToAllEqual(TensorView in, TensorView out, CollectiveCall call,
                                            StreamView stream) {
  const int64_t count = in.num_elements();
  return Run(std::move(call), stream, [=, this] {
    BeginCollective();
    const std::vector<int64_t> counts(static_cast<size_t>(size_), count / size_);
    return ExchangeRows(in.Reshape({count}), out.Reshape({count}), counts.data(), counts.data());
  });
}

absl::Status MpiCommunicator::Send(TensorView data, int peer, CollectiveCall call,
                                   StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    tag_ = kPointToPointTag;
    Delay(1, data.bytes());
    Begin(exchange_);
    exchange_.Send(peer, data.data, data.bytes());
    return exchange_.Wait();
  });
}

absl::Status MpiCommunicator::Receive(TensorView data, int peer, CollectiveCall call,
                                      StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    tag_ = kPointToPointTag;
    Begin(exchange_);
    exchange_.Receive(peer, data.data, data.bytes());
    return exchange_.Wait();
  });
}

absl::Status MpiCommunicator::Broadcast(TensorView data, int root, CollectiveCall call,
                                        StreamView stream) {
  return Run(std::move(call), stream, [=, this] {
    BeginCollective();
    return BroadcastTree(data, root);
  });
}

absl::Status MpiCommunicator::Barrier(CollectiveCall call, StreamView stream) {
  return Run(std::move(call), stream, [this] {
    BeginCollective();
    return Disseminate();
  });
}

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiCommunicatorOptions options) {
  return std::make_unique<MpiCommunicator>(std::move(options));
}

}  // namespace muster::parallel
