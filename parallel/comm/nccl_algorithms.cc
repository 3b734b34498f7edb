#include "parallel/comm/nccl_algorithms.h"

#include <nccl.h>

#include <algorithm>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/cuda_runtime.h"
#include "parallel/comm/device_reduce.h"
#include "parallel/comm/nccl_comm.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using kernels::SizeOf;
using kernels::StreamView;
using kernels::TensorView;

constexpr int64_t kStagingBytes = int64_t{1} << 20;  // per rank of the group

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
cudaStream_t Native(StreamView stream) { return static_cast<cudaStream_t>(stream.native_handle()); }
// Of a call inside a group: what is in progress is made when the group ends.
bool Failed(ncclResult_t result) { return result != ncclSuccess && result != ncclInProgress; }

}  // namespace

absl::StatusOr<std::unique_ptr<NcclAlgorithms>> NcclAlgorithms::Create(const Options& options) {
  std::unique_ptr<NcclAlgorithms> made(new NcclAlgorithms(options));
  using Buffer = kernels::DeviceBuffer;
  ASSIGN_OR_RETURN(made->staging_, Buffer::Allocate(options.device, kStagingBytes * options.size));
  ASSIGN_OR_RETURN(made->token_, Buffer::Allocate(options.device, sizeof(int32_t)));
  return made;
}

absl::Status NcclAlgorithms::Warm(StreamView stream) {
  constexpr int64_t kCount = kStagingBytes / sizeof(float);
  constexpr int64_t kRowBytes = 256;
  const TensorView all(staging_.data(), DType::kFloat32, {kCount * size_}, options_.device);
  const std::vector<int64_t> counts(Size(size_), 1);
  RETURN_IF_ERROR(Barrier(stream));
  // Large ones may take another algorithm, and so other connections.
  for (const int64_t count : {int64_t{256}, kCount}) {
    const TensorView whole = all.Slice(0, 0, count * size_);
    const TensorView part = whole.Slice(0, rank_ * count, (rank_ + 1) * count);
    RETURN_IF_ERROR(
        comm_->Settle(ncclAllReduce(whole.data, whole.data, Size(count * size_), ncclFloat32,
                                    ncclSum, comm_->get(), Native(stream))));
    RETURN_IF_ERROR(comm_->Settle(ncclReduceScatter(whole.data, part.data, Size(count), ncclFloat32,
                                                    ncclSum, comm_->get(), Native(stream))));
    RETURN_IF_ERROR(AllGather(part, whole, stream));
    RETURN_IF_ERROR(Broadcast(whole, /*root=*/0, stream));
  }
  RETURN_IF_ERROR(ExchangeRows(staging_.data(), At(staging_.data(), kStagingBytes), counts.data(),
                               counts.data(), kRowBytes, stream));
  // Our own kernels too: loading one may wait for the device, and so for other ranks.
  for (const DType dtype :
       {DType::kFloat32, DType::kBFloat16, DType::kFloat64, DType::kInt32, DType::kInt64}) {
    for (const int64_t stride : {1, 16}) {  // element by element, and by 16 bytes
      RETURN_IF_ERROR(ReduceOnDevice(dtype, ReduceOp::kMax, staging_.data(), stride, size_,
                                     At(staging_.data(), kStagingBytes), /*count=*/1, stream));
    }
  }
  return absl::OkStatus();
}

template <typename Calls>
absl::Status NcclAlgorithms::MadeTogether(Calls calls) {
  RETURN_IF_ERROR(comm_->Settle(ncclGroupStart()));
  const ncclResult_t inside = calls();
  const ncclResult_t result = ncclGroupEnd();  // whatever happened, the group must end
  return comm_->Settle(Failed(inside) ? inside : result);
}

absl::Status NcclAlgorithms::AllReduce(TensorView data, ReduceOp op, StreamView stream) {
  if (data.bytes() == 0) return absl::OkStatus();
  if (ReducesInRankOrder(op)) return ReduceStaged(data, op, stream);
  return comm_->Settle(ncclAllReduce(data.data, data.data, Size(data.num_elements()),
                                     ToNccl(data.dtype), ncclSum, comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::ReduceStaged(TensorView data, ReduceOp op, StreamView stream) {
  const int64_t count = data.num_elements(), element = SizeOf(data.dtype);
  const int64_t window = kStagingBytes / element;
  for (int64_t begin = 0; begin < count; begin += window) {
    const int64_t size = std::min(window, count - begin);
    char* place = At(data.data, begin * element);
    RETURN_IF_ERROR(comm_->Settle(ncclAllGather(place, staging_.data(), Size(size * element),
                                                ncclUint8, comm_->get(), Native(stream))));
    RETURN_IF_ERROR(
        ReduceOnDevice(data.dtype, op, staging_.data(), size, size_, place, size, stream));
  }
  return absl::OkStatus();
}

absl::Status NcclAlgorithms::ReduceScatter(TensorView in, TensorView out, ReduceOp op,
                                           StreamView stream) {
  if (out.bytes() == 0) return absl::OkStatus();
  if (ReducesInRankOrder(op)) return ReducePartsStaged(in, out, op, stream);
  return comm_->Settle(ncclReduceScatter(in.data, out.data, Size(out.num_elements()),
                                         ToNccl(in.dtype), ncclSum, comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::ReducePartsStaged(TensorView in, TensorView out, ReduceOp op,
                                               StreamView stream) {
  const int64_t part = out.num_elements(), element = SizeOf(in.dtype);
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

absl::Status NcclAlgorithms::AllGather(TensorView in, TensorView out, StreamView stream) {
  if (in.bytes() == 0) return absl::OkStatus();
  return comm_->Settle(
      ncclAllGather(in.data, out.data, Size(in.bytes()), ncclUint8, comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::ExchangeRows(const void* in, void* out, const int64_t* send_counts,
                                          const int64_t* receive_counts, int64_t row_bytes,
                                          StreamView stream) {
  int64_t own_sent = 0, own_received = 0;  // where this rank's own rows begin, in bytes
  RETURN_IF_ERROR(MadeTogether([&] {
    int64_t sent = 0, received = 0;
    for (int peer = 0; peer < size_; ++peer) {
      const int64_t send = send_counts[peer] * row_bytes;
      const int64_t receive = receive_counts[peer] * row_bytes;
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

absl::Status NcclAlgorithms::Shift(TensorView in, TensorView out, int distance, StreamView stream) {
  const int to = (rank_ + distance) % size_, from = (rank_ - distance + size_) % size_;
  return MadeTogether([&] {
    ncclResult_t result = ncclSuccess;
    if (in.bytes() > 0) {
      result = ncclSend(in.data, Size(in.bytes()), ncclUint8, to, comm_->get(), Native(stream));
    }
    if (!Failed(result) && out.bytes() > 0) {
      result = ncclRecv(out.data, Size(out.bytes()), ncclUint8, from, comm_->get(), Native(stream));
    }
    return result;
  });
}

absl::Status NcclAlgorithms::Send(TensorView data, int peer, StreamView stream) {
  if (data.bytes() == 0) return absl::OkStatus();
  return comm_->Settle(
      ncclSend(data.data, Size(data.bytes()), ncclUint8, peer, comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::Receive(TensorView data, int peer, StreamView stream) {
  if (data.bytes() == 0) return absl::OkStatus();
  return comm_->Settle(
      ncclRecv(data.data, Size(data.bytes()), ncclUint8, peer, comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::Broadcast(TensorView data, int root, StreamView stream) {
  if (data.bytes() == 0) return absl::OkStatus();
  return comm_->Settle(ncclBroadcast(data.data, data.data, Size(data.bytes()), ncclUint8, root,
                                     comm_->get(), Native(stream)));
}

absl::Status NcclAlgorithms::Barrier(StreamView stream) {
  return comm_->Settle(ncclAllReduce(token_.data(), token_.data(), 1, ncclInt32, ncclSum,
                                     comm_->get(), Native(stream)));
}

}  // namespace muster::parallel
