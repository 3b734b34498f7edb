#include "parallel/tp/tensor_parallel.h"

#include "kernels/base/error.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::StreamView;
using kernels::TensorView;

TensorView TensorParallel::StreamRows(const TensorView& all) const {
  if (!sequence_parallel_) return all;
  const int64_t rows = all.shape[0] / size();
  return all.Slice(0, rank() * rows, (rank() + 1) * rows);
}

absl::StatusOr<TensorView> TensorParallel::Gather(TensorView stream, TensorView all,
                                                  StreamView compute) const {
  if (!sequence_parallel_) return stream;
  RETURN_IF_ERROR(AllGather(stream, all, *group_, compute));
  return all;
}

absl::Status TensorParallel::Reduce(TensorView partial, TensorView stream,
                                    StreamView compute) const {
  if (sequence_parallel_) return ReduceScatter(partial, stream, ReduceOp::kSum, *group_, compute);
  MUSTER_CHECK(partial.data == stream.data) << "partial sums lie where Partial says";
  if (size() == 1) return absl::OkStatus();
  return AllReduce(stream, ReduceOp::kSum, *group_, compute);
}

}  // namespace muster::parallel
