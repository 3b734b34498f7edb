#include "parallel/dp/data_parallel.h"

namespace muster::parallel {

void DataParallelHooks::Use(ParameterId id, kernels::StreamView compute) {
  const absl::Status status = gather_.Use(layout_.bucket_of[static_cast<size_t>(id)], compute);
  if (!status.ok()) compute.Fail(status);
}

bool DataParallelHooks::Contribute(ParameterId id, kernels::StreamView compute) {
  const absl::StatusOr<bool> adds = reducer_.Contribute(id, compute);
  if (!adds.ok()) compute.Fail(adds.status());
  return adds.value_or(true);
}

void DataParallelHooks::Ready(ParameterId id, kernels::StreamView compute) {
  const absl::Status status = reducer_.Ready(id, compute);
  if (!status.ok()) compute.Fail(status);
}

}  // namespace muster::parallel
