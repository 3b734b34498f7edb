#include "parallel/dp/data_parallel.h"

namespace muster::parallel {

void DataParallelHooks::Use(ParameterId id, kernels::StreamView compute) {
  const absl::Status status = gather_.Use(layout_.bucket_of[static_cast<size_t>(id)], compute);
  if (!status.ok()) compute.Fail(status);
}

void DataParallelHooks::Accumulate(ParameterId id, kernels::StreamView compute) {
  const absl::Status status = reducer_.Accumulate(id, compute);
  if (!status.ok()) compute.Fail(status);
}

void DataParallelHooks::Ready(ParameterId id, kernels::StreamView compute) {
  const absl::Status status = reducer_.Ready(id, compute);
  if (!status.ok()) compute.Fail(status);
}

}  // namespace muster::parallel
