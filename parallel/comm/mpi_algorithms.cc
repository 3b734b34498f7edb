#include "parallel/comm/mpi_algorithms.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "kernels/base/error.h"
#include "parallel/comm/rank_order_reduce.h"
#include "parallel/comm/row_counts.h"

namespace muster::parallel {
namespace {

using kernels::DeviceBuffer;
using kernels::DType;
using kernels::SizeOf;
using kernels::TensorView;

// A reduction's unit of transfer per peer: one window is summed while the next is under way.
constexpr int64_t kWindowBytes = 512 << 10;
constexpr int kPairwiseTag = 0;
constexpr int kCollectiveTags = 32'000;  // MPI guarantees tags up to 32767

char* At(const void* data, int64_t offset) {
  return static_cast<char*>(const_cast<void*>(data)) + offset;
}

void CopyUnlessSame(void* destination, const void* source, int64_t bytes) {
  if (destination != source && bytes > 0) {
    std::memcpy(destination, source, static_cast<size_t>(bytes));
  }
}

}  // namespace

MpiAlgorithms::MpiAlgorithms(MpiHandle communicator, std::vector<int> world_ranks, int rank,
                             InjectedLink link)
    : rank_(rank),
      size_(static_cast<int>(world_ranks.size())),
      link_(link),
      exchange_(communicator, world_ranks),
      next_exchange_(communicator, std::move(world_ranks)),
      sources_(static_cast<size_t>(size_)),
      send_begin_(static_cast<size_t>(size_) + 1, 0),
      receive_begin_(static_cast<size_t>(size_) + 1, 0) {}

// Collectives are counted, so that a message can only be taken by the call it was sent in. Sends
// and receives are not: their ranks count differently, and MPI keeps the order of each pair.
void MpiAlgorithms::Begin(MpiExchange::Clock::time_point deadline, bool pairwise) {
  deadline_ = deadline;
  if (!pairwise) num_collectives_ = (num_collectives_ + 1) % kCollectiveTags;
  tag_ = pairwise ? kPairwiseTag : 1 + num_collectives_;
}

void MpiAlgorithms::Abandon() {
  exchange_.Abandon();
  next_exchange_.Abandon();
}

void MpiAlgorithms::Delay(int64_t num_messages, int64_t bytes) const {
  const auto delay = link_.TimeOf(num_messages, bytes);
  if (delay.count() > 0) std::this_thread::sleep_for(delay);
}

absl::Status MpiAlgorithms::ReserveStaging(int64_t bytes) {
  if (staging_.bytes() >= bytes) return absl::OkStatus();
  ASSIGN_OR_RETURN(staging_, DeviceBuffer::Allocate(kernels::Device{}, bytes));
  return absl::OkStatus();
}

// Window by window, so that staging stays small and a window is summed from the cache. This rank's
// part of `in` is never sent, which is why `out` may overwrite it.
absl::Status MpiAlgorithms::ReduceParts(const void* in, void* out, DType dtype, ReduceOp op,
                                        Parts parts) {
  const int64_t element_bytes = SizeOf(dtype), own_size = parts.size(rank_);
  const int64_t window_size = kWindowBytes / element_bytes;
  const int64_t largest = parts.size(0);  // the first part takes the remainder
  const int64_t slot_bytes = std::min(window_size, largest) * element_bytes * size_;
  RETURN_IF_ERROR(ReserveStaging(2 * slot_bytes));
  Delay(size_ - 1, (parts.total - own_size) * element_bytes);
  const int64_t num_windows = (largest + window_size - 1) / window_size;
  if (num_windows > 0) PostWindow(0, 0, in, element_bytes, parts);
  for (int64_t window = 0; window < num_windows; ++window) {
    const int slot = static_cast<int>(window % 2);
    if (window + 1 < num_windows) {
      PostWindow(1 - slot, window + 1, in, element_bytes, parts);
    }
    RETURN_IF_ERROR((slot == 0 ? exchange_ : next_exchange_).Wait());
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

void MpiAlgorithms::PostWindow(int slot, int64_t window, const void* in, int64_t element_bytes,
                               Parts parts) {
  const int64_t window_size = kWindowBytes / element_bytes, begin = window * window_size;
  const int64_t row_bytes = std::min(window_size, parts.size(0)) * element_bytes;
  const auto bytes_of = [&](int part) {
    return std::clamp<int64_t>(parts.size(part) - begin, 0, window_size) * element_bytes;
  };
  MpiExchange& exchange = slot == 0 ? exchange_ : next_exchange_;
  exchange.Begin(tag_, deadline_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance), target = PeerAt(distance);
    exchange.Receive(source, At(staging_.data(), (slot * size_ + source) * row_bytes),
                     bytes_of(rank_));
    exchange.Send(target, At(in, (parts.begin(target) + begin) * element_bytes), bytes_of(target));
  }
}

absl::Status MpiAlgorithms::GatherParts(const void* own, void* out, int64_t element_bytes,
                                        Parts parts) {
  const auto place = [&](int part) { return At(out, parts.begin(part) * element_bytes); };
  const int64_t own_bytes = parts.size(rank_) * element_bytes;
  CopyUnlessSame(place(rank_), own, own_bytes);
  Delay(size_ - 1, (size_ - 1) * own_bytes);
  exchange_.Begin(tag_, deadline_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance);
    exchange_.Receive(source, place(source), parts.size(source) * element_bytes);
    exchange_.Send(PeerAt(distance), place(rank_), own_bytes);
  }
  return exchange_.Wait();
}

absl::Status MpiAlgorithms::ReduceSmall(void* data, DType dtype, ReduceOp op, int64_t count) {
  const int64_t bytes = count * SizeOf(dtype);
  RETURN_IF_ERROR(ReserveStaging(kSmallAllReduceBytes * size_));
  Delay(size_ - 1, (size_ - 1) * bytes);
  sources_[static_cast<size_t>(rank_)] = data;
  exchange_.Begin(tag_, deadline_);
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

absl::Status MpiAlgorithms::ExchangeRows(TensorView in, TensorView out, const int64_t* send_counts,
                                         const int64_t* receive_counts) {
  const RowCounts counts{send_counts, receive_counts, size_, rank_};
  RETURN_IF_ERROR(counts.Check(in.shape[0], out.shape[0]));
  int64_t row_bytes = SizeOf(in.dtype);
  for (int dim = 1; dim < in.rank(); ++dim) row_bytes *= in.shape[dim];
  for (size_t peer = 0; peer < static_cast<size_t>(size_); ++peer) {
    send_begin_[peer + 1] = send_begin_[peer] + send_counts[peer] * row_bytes;
    receive_begin_[peer + 1] = receive_begin_[peer] + receive_counts[peer] * row_bytes;
  }
  const size_t self = static_cast<size_t>(rank_);
  CopyUnlessSame(At(out.data, receive_begin_[self]), At(in.data, send_begin_[self]),
                 send_counts[rank_] * row_bytes);
  Delay(size_ - 1, std::max(send_begin_.back() - send_counts[rank_] * row_bytes,
                            receive_begin_.back() - receive_counts[rank_] * row_bytes));
  exchange_.Begin(tag_, deadline_);
  for (int distance = 1; distance < size_; ++distance) {
    const int source = PeerAt(-distance), target = PeerAt(distance);
    exchange_.Receive(source, At(out.data, receive_begin_[static_cast<size_t>(source)]),
                      receive_counts[source] * row_bytes);
    exchange_.Send(target, At(in.data, send_begin_[static_cast<size_t>(target)]),
                   send_counts[target] * row_bytes);
  }
  return exchange_.Wait();
}

absl::Status MpiAlgorithms::Shift(const void* in, int64_t in_bytes, void* out, int64_t out_bytes,
                                  int distance) {
  Delay(1, in_bytes);
  exchange_.Begin(tag_, deadline_);
  exchange_.Receive(PeerAt(-distance), out, out_bytes);
  exchange_.Send(PeerAt(distance), in, in_bytes);
  return exchange_.Wait();
}

// A binomial tree over ranks counted from the root: rank r gets the data from r without its highest
// bit, and hands it on to r + 2^k for every 2^k > r.
absl::Status MpiAlgorithms::Broadcast(void* data, int64_t bytes, int root) {
  const int place = (rank_ - root + size_) % size_;
  int bit = 1;
  while (bit <= place) bit *= 2;
  if (place > 0) {
    exchange_.Begin(tag_, deadline_);
    exchange_.Receive((place - bit / 2 + root) % size_, data, bytes);
    RETURN_IF_ERROR(exchange_.Wait());
  }
  for (; place + bit < size_; bit *= 2) {
    Delay(1, bytes);
    exchange_.Begin(tag_, deadline_);
    exchange_.Send((place + bit + root) % size_, data, bytes);
    RETURN_IF_ERROR(exchange_.Wait());
  }
  return absl::OkStatus();
}

// Round k tells rank + 2^k; after ceil(log2 n) rounds everybody has heard, at least at second hand,
// of everybody (Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization", 1988).
absl::Status MpiAlgorithms::Barrier() {
  for (int distance = 1; distance < size_; distance *= 2) {
    Delay(1, 0);
    exchange_.Begin(tag_, deadline_);
    exchange_.Receive(PeerAt(-distance), nullptr, 0);
    exchange_.Send(PeerAt(distance), nullptr, 0);
    RETURN_IF_ERROR(exchange_.Wait());
  }
  return absl::OkStatus();
}

absl::Status MpiAlgorithms::Send(int peer, const void* data, int64_t bytes) {
  Delay(1, bytes);
  exchange_.Begin(tag_, deadline_);
  exchange_.Send(peer, data, bytes);
  return exchange_.Wait();
}

absl::Status MpiAlgorithms::Receive(int peer, void* data, int64_t bytes) {
  exchange_.Begin(tag_, deadline_);
  exchange_.Receive(peer, data, bytes);
  return exchange_.Wait();
}

}  // namespace muster::parallel
