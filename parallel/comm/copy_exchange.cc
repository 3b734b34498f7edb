#include "parallel/comm/copy_exchange.h"

#include <string>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/flags.h"
#include "kernels/device/memory.h"
#include "parallel/comm/rank_order_reduce.h"
#ifdef MUSTER_WITH_CUDA
#include "parallel/comm/device_reduce.h"
#endif

namespace muster::parallel {

using kernels::CopyAsync;

namespace {

char* At(const void* base, int64_t bytes) {
  return const_cast<char*>(static_cast<const char*>(base)) + bytes;
}

}  // namespace

void CopyExchange::Meet(StreamView stream) {
  std::vector<uint32_t*> raised, awaited;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == options_.rank) continue;
    raised.push_back(Of(peer).flags + options_.rank);
    awaited.push_back(Of(options_.rank).flags + peer);
  }
  kernels::MeetAsync(raised, awaited, ++meetings_, stream);
}

absl::Status CopyExchange::ReduceScatter(TensorView in, TensorView out, StreamView stream) {
  const int rank = options_.rank;
  const int64_t part = out.bytes();
  if (part == 0) return absl::OkStatus();
  if (part * (size() - 1) > options_.staging_bytes) {
    return absl::ResourceExhaustedError(
        "a reduce-scatter by copy engines of " + std::to_string(in.bytes()) + " bytes over " +
        std::to_string(size()) + " ranks wants " + std::to_string(part * (size() - 1)) +
        " bytes of staging memory, but " + std::to_string(options_.staging_bytes) +
        " were planned");
  }
  Meet(stream);
  // To the next rank first: at any time each rank then receives from one.
  for (int distance = 1; distance < size(); ++distance) {
    const int peer = (rank + distance) % size();
    const int slot = rank - (rank > peer ? 1 : 0);
    CopyAsync(At(Of(peer).staging, slot * part), At(in.data, peer * part), part, stream);
  }
  Meet(stream);
  const int64_t count = out.num_elements();
  Sum(in.Reshape({in.num_elements()}).Slice(0, rank * count, (rank + 1) * count), out, stream);
  return absl::OkStatus();
}

void CopyExchange::Sum(TensorView own, TensorView out, StreamView stream) const {
  const int rank = options_.rank;
  const char* staging = Of(rank).staging;
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == kernels::DeviceType::kCuda) {
    stream.Fail(SumWithOwn(own.dtype, own.data, rank, staging, size() - 1, out.data,
                           out.num_elements(), stream));
    return;
  }
#endif
  std::vector<const void*> sources;
  for (int peer = 0; peer < size(); ++peer) {
    sources.push_back(peer == rank ? own.data
                                   : At(staging, (peer - (peer > rank ? 1 : 0)) * own.bytes()));
  }
  stream.Enqueue([sources, own, out] {
    ReduceInRankOrder(own.dtype, ReduceOp::kSum, sources.data(), static_cast<int>(sources.size()),
                      out.data, out.num_elements());
  });
}

int CopyExchange::FindTarget(const TensorView& out) const {
  const Memory& own = Of(options_.rank);
  for (size_t i = 0; i < own.targets.size(); ++i) {
    const int64_t offset = static_cast<const char*>(out.data) - own.targets[i];
    if (offset >= 0 && offset + out.bytes() <= options_.target_bytes[i]) return static_cast<int>(i);
  }
  return -1;
}

absl::Status CopyExchange::AllGather(TensorView in, TensorView out, StreamView stream) {
  const int rank = options_.rank, target = FindTarget(out);
  MUSTER_CHECK(target >= 0) << out.ToString() << " is no target of gathers by copy engines";
  const int64_t part = in.bytes();
  if (part == 0) return absl::OkStatus();
  const auto place = static_cast<size_t>(target);
  const int64_t own_part =
      static_cast<const char*>(out.data) - Of(rank).targets[place] + rank * part;
  CopyAsync(At(Of(rank).targets[place], own_part), in.data, part, stream);
  Meet(stream);
  for (int distance = 1; distance < size(); ++distance) {
    const int peer = (rank + distance) % size();
    CopyAsync(At(Of(peer).targets[place], own_part), in.data, part, stream);
  }
  Meet(stream);
  return absl::OkStatus();
}

void CopyExchange::Release() {
  kernels::OverrideFlags(Of(options_.rank).flags, size(), meetings_, options_.device);
}

}  // namespace muster::parallel
