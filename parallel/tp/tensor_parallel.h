#pragma once
// The collectives of tensor parallelism (Shoeybi et al., "Megatron-LM", 2019; with sequence
// parallelism: Korthikanti et al., "Reducing activation recomputation", 2022). A layer that is cut
// over the tensor group is a column-parallel product, whose outputs are divided, followed by a
// row-parallel one, whose outputs are partial sums:
//
//   stream rows --Gather--> all rows --column--> own heads --row--> partial sums --Reduce--> stream
//
// The stream is what lies between such layers. With sequence parallelism each of the n ranks holds
// T / n of the microbatch's T rows, in rank order: Gather is an all-gather, Reduce a
// reduce-scatter. Without it every rank holds all rows: Gather does nothing, Reduce is an
// all-reduce. The gradient of a Gather is a Reduce and the other way round, so two calls serve all
// four places.
//
// Weights that are not cut (norms, biases behind a Reduce) are replicated over the group. Their
// gradients are this rank's contribution and are added over the stage: with sequence parallelism
// that of its own rows; without it all of it, on the first rank, and nothing on the others.
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/process_group.h"

namespace muster::parallel {

class TensorParallel {
 public:
  TensorParallel(const ProcessGroup& group, bool sequence_parallel)
      : group_(&group), sequence_parallel_(sequence_parallel && group.size() > 1) {}

  const ProcessGroup& group() const { return *group_; }
  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  bool sequence_parallel() const { return sequence_parallel_; }
  // Whether this rank adds to the gradients of weights that are not cut, and, without sequence
  // parallelism, to whatever else all ranks of the group compute alike.
  bool contributes() const { return sequence_parallel_ || rank() == 0; }

  // This rank's stream rows among all rows (first dim).
  kernels::TensorView StreamRows(const kernels::TensorView& all) const;
  // All rows of the stream: gathered in `all`, or without sequence parallelism `stream` itself.
  absl::StatusOr<kernels::TensorView> Gather(kernels::TensorView stream, kernels::TensorView all,
                                             kernels::StreamView compute) const;
  // Where to write partial sums for Reduce: `all`, or without sequence parallelism `stream`.
  kernels::TensorView Partial(const kernels::TensorView& stream,
                              const kernels::TensorView& all) const {
    return sequence_parallel_ ? all : stream;
  }
  // Adds the partial sums of all ranks; `partial` is what Partial returned.
  absl::Status Reduce(kernels::TensorView partial, kernels::TensorView stream,
                      kernels::StreamView compute) const;

 private:
  const ProcessGroup* group_;
  bool sequence_parallel_;
};

}  // namespace muster::parallel
