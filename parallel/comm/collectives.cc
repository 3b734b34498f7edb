#include "parallel/comm/collectives.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::parallel {
namespace {

using kernels::DType;

// file:line below the repository's root, which is what the path of this file has in front.
std::string Describe(const Site& site) {
  constexpr std::string_view kThisFile = __FILE__, kInRepository = "parallel/comm/collectives.cc";
  static_assert(kThisFile.ends_with(kInRepository));
  constexpr std::string_view kRoot = kThisFile.substr(0, kThisFile.size() - kInRepository.size());
  std::string_view file = site.file_name();
  if (file.starts_with(kRoot)) file.remove_prefix(kRoot.size());
  return std::string(file) + ":" + std::to_string(site.line());
}

void CheckTensor(const TensorView& tensor, StreamView stream) {
  MUSTER_CHECK(tensor.IsContiguous() && tensor.device == stream.device())
      << tensor.ToString() << " in a collective on a stream of " << kernels::Name(stream.device());
}

void CheckPair(const TensorView& in, const TensorView& out, StreamView stream) {
  CheckTensor(in, stream);
  CheckTensor(out, stream);
  MUSTER_CHECK(in.dtype == out.dtype) << in.ToString() << " to " << out.ToString();
}

void CheckReducible(const TensorView& tensor) {
  MUSTER_CHECK(tensor.dtype != DType::kUInt8) << "reduction of " << tensor.ToString();
}

void CheckPeer(int peer, const ProcessGroup& group) {
  MUSTER_CHECK(peer >= 0 && peer < group.size())
      << "peer " << peer << " of group " << group.name() << " of " << group.size();
}

void Copy(const TensorView& out, const TensorView& in, int64_t elements, StreamView stream) {
  kernels::CopyAsync(out.data, in.data, elements * kernels::SizeOf(in.dtype), stream);
}

// Writes the call down, marks the stream's time, and hands it to the communicator.
template <typename Start>
absl::Status Call(CollectiveKind kind, int64_t bytes, const ProcessGroup& group, StreamView stream,
                  const Site& site, Start start, int peer = -1) {
  if (stream.dry()) return absl::OkStatus();
  if (!group.has_communicator()) {
    return absl::FailedPreconditionError(
        std::string(Name(kind)) + " of group " + group.name() + ", from " + Describe(site) +
        ": the group has no communicator, since the job was to exchange nothing in it");
  }
  if (group.log().TakeSkip(group.name())) return absl::OkStatus();
  const bool pairwise = kind == CollectiveKind::kSend || kind == CollectiveKind::kReceive;
  const uint64_t sequence = pairwise ? group.sequence() : group.NextSequence();
  std::string from = Describe(site);
  CollectiveCall call;
  call.log = &group.log();
  call.what = std::string(Name(kind)) + " #" + std::to_string(sequence) + " of group " +
              group.name() + ", " + std::to_string(bytes) + " bytes, from " + from;
  call.id = group.log().Enqueued(group.name(), sequence, kind, bytes, std::move(from),
                                 peer < 0 ? -1 : group.world_ranks()[static_cast<size_t>(peer)]);
  const uint64_t id = call.id;
  const kernels::Span span(stream, Name(kind), group.time_category(), [&] {
    return kernels::TracedWork{.detail = group.name() + " " + std::to_string(bytes) + " bytes",
                               .kind = kernels::TraceKind::kCollective};
  });
  absl::Status status = start(std::move(call));
  if (!status.ok()) group.log().Done(id, /*ok=*/false);
  return status;
}

// With nobody to exchange with, all rows stay here; the counts still have to say so. On a device
// they are not looked at: the rows past the count are undefined anyway.
absl::Status AllToAllAlone(TensorView in, TensorView out, TensorView send_counts,
                           TensorView receive_counts, StreamView stream) {
  const int64_t row = in.shape[0] > 0 ? in.num_elements() / in.shape[0] : 0;
  const int64_t rows = std::min(in.shape[0], out.shape[0]);
  if (stream.device().type == kernels::DeviceType::kCpu) {
    stream.Enqueue([=] {
      const int64_t sent = *send_counts.as<int64_t>(), received = *receive_counts.as<int64_t>();
      if (sent == received && sent >= 0 && sent <= rows) return;
      stream.Fail(absl::InvalidArgumentError(
          "all_to_all in a group of one sends " + std::to_string(sent) + " and receives " +
          std::to_string(received) + " rows, from " + in.ToString() + " to " + out.ToString()));
    });
  }
  Copy(out, in, rows * row, stream);
  return absl::OkStatus();
}

}  // namespace

absl::Status UseCopyEngines(const CopyMemory& memory, const ProcessGroup& group) {
  return group.size() == 1 ? absl::OkStatus() : group.communicator().UseCopyEngines(memory);
}

absl::Status AllReduce(TensorView data, ReduceOp op, const ProcessGroup& group, StreamView stream,
                       Site site) {
  CheckTensor(data, stream);
  CheckReducible(data);
  if (group.size() == 1) return absl::OkStatus();
  return Call(CollectiveKind::kAllReduce, data.bytes(), group, stream, site,
              [&](CollectiveCall call) {
                return group.communicator().AllReduce(data, op, std::move(call), stream);
              });
}

absl::Status ReduceScatter(TensorView in, TensorView out, ReduceOp op, const ProcessGroup& group,
                           StreamView stream, Site site) {
  CheckPair(in, out, stream);
  CheckReducible(in);
  MUSTER_CHECK(in.num_elements() == out.num_elements() * group.size())
      << in.ToString() << " reduced and scattered to " << out.ToString() << " over "
      << group.size();
  if (group.size() == 1) {
    Copy(out, in, in.num_elements(), stream);
    return absl::OkStatus();
  }
  return Call(CollectiveKind::kReduceScatter, in.bytes(), group, stream, site,
              [&](CollectiveCall call) {
                return group.communicator().ReduceScatter(in, out, op, std::move(call), stream);
              });
}

absl::Status AllGather(TensorView in, TensorView out, const ProcessGroup& group, StreamView stream,
                       Site site) {
  CheckPair(in, out, stream);
  MUSTER_CHECK(out.num_elements() == in.num_elements() * group.size())
      << in.ToString() << " gathered to " << out.ToString() << " over " << group.size();
  if (group.size() == 1) {
    Copy(out, in, in.num_elements(), stream);
    return absl::OkStatus();
  }
  return Call(CollectiveKind::kAllGather, out.bytes(), group, stream, site,
              [&](CollectiveCall call) {
                return group.communicator().AllGather(in, out, std::move(call), stream);
              });
}

absl::Status AllToAll(TensorView in, TensorView out, TensorView send_counts,
                      TensorView receive_counts, const ProcessGroup& group, StreamView stream,
                      Site site) {
  CheckPair(in, out, stream);
  CheckPair(send_counts, receive_counts, stream);
  MUSTER_CHECK(in.rank() >= 1 && in.rank() == out.rank());
  for (int dim = 1; dim < in.rank(); ++dim) MUSTER_CHECK_EQ(in.shape[dim], out.shape[dim]);
  MUSTER_CHECK(send_counts.dtype == DType::kInt64 && send_counts.num_elements() == group.size() &&
               receive_counts.num_elements() == group.size())
      << "counts " << send_counts.ToString() << " and " << receive_counts.ToString()
      << " in a group of " << group.size();
  if (group.size() == 1) return AllToAllAlone(in, out, send_counts, receive_counts, stream);
  return Call(CollectiveKind::kAllToAll, in.bytes(), group, stream, site, [&](CollectiveCall call) {
    return group.communicator().AllToAll(in, out, send_counts, receive_counts, std::move(call),
                                         stream);
  });
}

absl::Status AllToAllEqual(TensorView in, TensorView out, const ProcessGroup& group,
                           StreamView stream, Site site) {
  CheckPair(in, out, stream);
  MUSTER_CHECK(in.num_elements() == out.num_elements() && in.num_elements() % group.size() == 0)
      << in.ToString() << " exchanged to " << out.ToString() << " over " << group.size();
  if (group.size() == 1) {
    Copy(out, in, in.num_elements(), stream);
    return absl::OkStatus();
  }
  return Call(CollectiveKind::kAllToAll, in.bytes(), group, stream, site, [&](CollectiveCall call) {
    return group.communicator().AllToAllEqual(in, out, std::move(call), stream);
  });
}

absl::Status Shift(TensorView in, TensorView out, int distance, const ProcessGroup& group,
                   StreamView stream, Site site) {
  CheckPair(in, out, stream);
  MUSTER_CHECK(distance > 0 && distance < group.size())
      << "shift by " << distance << " in group " << group.name() << " of " << group.size();
  return Call(CollectiveKind::kShift, in.bytes(), group, stream, site, [&](CollectiveCall call) {
    return group.communicator().Shift(in, out, distance, std::move(call), stream);
  });
}

absl::Status Send(TensorView data, int peer, const ProcessGroup& group, StreamView stream,
                  Site site) {
  CheckTensor(data, stream);
  CheckPeer(peer, group);
  MUSTER_CHECK(peer != group.rank()) << "send to itself in group " << group.name();
  return Call(
      CollectiveKind::kSend, data.bytes(), group, stream, site,
      [&](CollectiveCall call) {
        return group.communicator().Send(data, peer, std::move(call), stream);
      },
      peer);
}

absl::Status Receive(TensorView data, int peer, const ProcessGroup& group, StreamView stream,
                     Site site) {
  CheckTensor(data, stream);
  CheckPeer(peer, group);
  MUSTER_CHECK(peer != group.rank()) << "receive from itself in group " << group.name();
  return Call(
      CollectiveKind::kReceive, data.bytes(), group, stream, site,
      [&](CollectiveCall call) {
        return group.communicator().Receive(data, peer, std::move(call), stream);
      },
      peer);
}

absl::Status Broadcast(TensorView data, int root, const ProcessGroup& group, StreamView stream,
                       Site site) {
  CheckTensor(data, stream);
  CheckPeer(root, group);
  if (group.size() == 1) return absl::OkStatus();
  return Call(CollectiveKind::kBroadcast, data.bytes(), group, stream, site,
              [&](CollectiveCall call) {
                return group.communicator().Broadcast(data, root, std::move(call), stream);
              });
}

absl::Status Barrier(const ProcessGroup& group, StreamView stream, Site site) {
  if (group.size() == 1) return absl::OkStatus();
  return Call(CollectiveKind::kBarrier, 0, group, stream, site, [&](CollectiveCall call) {
    return group.communicator().Barrier(std::move(call), stream);
  });
}

}  // namespace muster::parallel
