#include "parallel/dp/bucket_reducer.h"

#include <algorithm>

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::StreamView;

absl::StatusOr<std::unique_ptr<BucketReducer>> BucketReducer::Create(const BucketStorage& storage,
                                                                     const Mesh& mesh,
                                                                     DataParallelOptions options,
                                                                     StreamView comm) {
  if (options.zero_level != 0 && options.zero_level != 1) {
    return absl::InvalidArgumentError(
        "zero_level is " + std::to_string(options.zero_level) +
        "; this build knows 0 (replicated) and 1 (sharded optimizer)");
  }
  ASSIGN_OR_RETURN(Event filled, Event::Create(comm.device()));
  ASSIGN_OR_RETURN(Event reduced, Event::Create(comm.device()));
  return std::unique_ptr<BucketReducer>(
      new BucketReducer(storage, mesh, options, comm, std::move(filled), std::move(reduced)));
}

BucketReducer::BucketReducer(const BucketStorage& storage, const Mesh& mesh,
                             DataParallelOptions options, StreamView comm, Event filled,
                             Event reduced)
    : storage_(storage),
      mesh_(mesh),
      options_(options),
      comm_(comm),
      ready_(storage.layout().bucket_of.size()),
      missing_(storage.layout().buckets.size()),
      filled_(std::move(filled)),
      reduced_(std::move(reduced)) {
  ForgetReady();
}

void BucketReducer::ForgetReady() {
  ready_.assign(ready_.size(), false);
  for (size_t b = 0; b < missing_.size(); ++b) {
    missing_[b] = static_cast<int>(storage_.layout().buckets[b].slices.size());
  }
  next_ = 0;
}

void BucketReducer::BeginStep(StreamView compute) {
  for (size_t b = 0; b < missing_.size(); ++b) {
    kernels::FillZeroAsync(storage_.gradients(static_cast<int>(b)), compute);
  }
  ForgetReady();
}

absl::Status BucketReducer::Ready(ParameterId id, StreamView compute) {
  if (!last_microbatch_) return absl::OkStatus();
  const auto index = static_cast<size_t>(id);
  if (ready_[index]) {
    return absl::FailedPreconditionError(
        "the gradient of " + storage_.layout().parameter_names[index] +
        " was reported ready twice in one step; a shared weight is ready once, after its last use");
  }
  ready_[index] = true;
  --missing_[static_cast<size_t>(storage_.layout().bucket_of[index])];
  if (!options_.overlap) return absl::OkStatus();
  while (next_ < static_cast<int>(missing_.size()) && missing_[static_cast<size_t>(next_)] == 0) {
    RETURN_IF_ERROR(ReduceNext(compute));
  }
  return absl::OkStatus();
}

absl::Status BucketReducer::ReduceNext(StreamView compute) {
  const int b = next_++;
  const Bucket& bucket = storage_.layout().buckets[static_cast<size_t>(b)];
  if (bucket.group_size == 1) return absl::OkStatus();
  compute.Record(filled_.view());
  comm_.Wait(filled_.view());
  const ProcessGroup& group = mesh_.Group(bucket.replica_axis);
  const CollectiveLog::At place(group.log(), {.bucket = b});
  const absl::Status status = options_.zero_level == 0
                                  ? AllReduce(storage_.gradients(b), ReduceOp::kSum, group, comm_)
                                  : ReduceScatter(storage_.gradients(b), storage_.gradient_shard(b),
                                                  ReduceOp::kSum, group, comm_);
  if (!status.ok()) return kernels::Annotate(status, "reduction of " + bucket.name);
  comm_.Record(reduced_.view());
  return absl::OkStatus();
}

absl::Status BucketReducer::Finish(StreamView compute) {
  const auto missing = std::find(ready_.begin(), ready_.end(), false);
  if (missing != ready_.end()) {
    const auto id = static_cast<size_t>(missing - ready_.begin());
    const BucketLayout& layout = storage_.layout();
    const Bucket& bucket = layout.buckets[static_cast<size_t>(layout.bucket_of[id])];
    return absl::FailedPreconditionError(
        "the gradient of " + layout.parameter_names[id] + ", in " + bucket.name +
        ", was never reported ready in this step (" +
        std::to_string(std::count(ready_.begin(), ready_.end(), false)) + " of " +
        std::to_string(ready_.size()) + " parameters are missing); its layer must call Ready");
  }
  while (next_ < static_cast<int>(missing_.size())) RETURN_IF_ERROR(ReduceNext(compute));
  // The communication stream is ordered: its last reduction ends after all others.
  const kernels::Span span(compute, "wait for gradient reduction", kExposedDp);
  compute.Wait(reduced_.view());
  return absl::OkStatus();
}

}  // namespace muster::parallel
