#pragma once
// The whole grammar of communication on one page. Order of arguments: what, where to, how, with
// whom, on which stream. Each call enqueues on the stream and returns; the Status says whether the
// call could be made. A later failure (a deadline, a lost rank) is left in the stream and names the
// call. In a group of one, data is copied from in to out, or left as it is. Time that the compute
// stream spends in a call is booked under the group's time category.
//
// Tensors are contiguous, of equal dtype; a tensor is cut along its first dim or, flat, into equal
// parts by rank order. The caller's file and line go into the collective log.
#include <source_location>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/process_group.h"

namespace muster::parallel {

using kernels::StreamView;
using kernels::TensorView;
using Site = std::source_location;

// From here on, where the group's options want it (NcclOptions::CtaPolicy::kZero), copy engines
// carry its reduce-scatters of sums, through memory.staging, and its all-gathers into
// memory.targets; elsewhere nothing changes. All ranks of the group call it, with memory of equal
// sizes, which must last as long as the group; groups that share staging memory are used on one
// stream. Blocks the host. Errors: ranks of several hosts, GPUs that do not reach each other.
absl::Status UseCopyEngines(const CopyMemory& memory, const ProcessGroup& group);

// data = reduction of data over the ranks; fp32, bf16, fp64, int32, int64.
absl::Status AllReduce(TensorView data, ReduceOp op, const ProcessGroup& group, StreamView stream,
                       Site site = Site::current());
// out [N / n] = reduction of part `rank` of in [N]. out may be that part of in itself.
absl::Status ReduceScatter(TensorView in, TensorView out, ReduceOp op, const ProcessGroup& group,
                           StreamView stream, Site site = Site::current());
// out [n N] = in [N] of rank 0, 1, ... in may be its own part of out.
absl::Status AllGather(TensorView in, TensorView out, const ProcessGroup& group, StreamView stream,
                       Site site = Site::current());
// Rows (first dim) of `in`, sorted by destination: send_counts[p] rows go to rank p; `out` receives
// receive_counts[p] rows from each p, in rank order. Counts are int64 [n] on the same device, read
// in stream order; they must match across ranks and fit the tensors.
absl::Status AllToAll(TensorView in, TensorView out, TensorView send_counts,
                      TensorView receive_counts, const ProcessGroup& group, StreamView stream,
                      Site site = Site::current());
// Equal parts: in [n N] -> out [n N].
absl::Status AllToAllEqual(TensorView in, TensorView out, const ProcessGroup& group,
                           StreamView stream, Site site = Site::current());
// `in` goes to rank + distance, `out` comes from rank - distance, both modulo the group's size n;
// 0 < distance < n. All ranks call it, with tensors that fit their pairs: sizes may differ between
// pairs.
absl::Status Shift(TensorView in, TensorView out, int distance, const ProcessGroup& group,
                   StreamView stream, Site site = Site::current());
absl::Status Send(TensorView data, int peer, const ProcessGroup& group, StreamView stream,
                  Site site = Site::current());
absl::Status Receive(TensorView data, int peer, const ProcessGroup& group, StreamView stream,
                     Site site = Site::current());
absl::Status Broadcast(TensorView data, int root, const ProcessGroup& group, StreamView stream,
                       Site site = Site::current());
absl::Status Barrier(const ProcessGroup& group, StreamView stream, Site site = Site::current());

}  // namespace muster::parallel
