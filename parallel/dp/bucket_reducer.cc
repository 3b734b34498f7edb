#include "parallel/dp/bucket_reducer.h"

#include <algorithm>
#include <utility>

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::StreamView;

absl::StatusOr<std::unique_ptr<BucketReducer>> BucketReducer::Create(const BucketStorage& storage,
                                                                     const Mesh& mesh,
                                                                     DataParallelOptions options,
                                                                     StreamView comm) {
  if (options.zero_level != storage.zero_level()) {
    return absl::InvalidArgumentError("zero_level is " + std::to_string(options.zero_level) +
                                      ", but the buckets' memory was planned for " +
                                      std::to_string(storage.zero_level()));
  }
  auto blank = std::make_unique<BlankGradients>(storage);
  ASSIGN_OR_RETURN(std::unique_ptr<GradientPool> pool,
                   GradientPool::Create(storage, mesh, options.overlap, comm, *blank));
  ASSIGN_OR_RETURN(Event filled, Event::Create(comm.device()));
  ASSIGN_OR_RETURN(Event reduced, Event::Create(comm.device()));
  return std::unique_ptr<BucketReducer>(new BucketReducer(storage, mesh, options, comm,
                                                          std::move(blank), std::move(pool),
                                                          std::move(filled), std::move(reduced)));
}

BucketReducer::BucketReducer(const BucketStorage& storage, const Mesh& mesh,
                             DataParallelOptions options, StreamView comm,
                             std::unique_ptr<BlankGradients> blank,
                             std::unique_ptr<GradientPool> pool, Event filled, Event reduced)
    : storage_(storage),
      mesh_(mesh),
      options_(options),
      comm_(comm),
      blank_(std::move(blank)),
      pool_(std::move(pool)),
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

void BucketReducer::Observe(GradientObserver observer) {
  pool_->Observe(observer);
  observer_ = std::move(observer);
}

void BucketReducer::BeginStep(StreamView compute) {
  for (int b = 0; b < static_cast<int>(missing_.size()); ++b) {
    if (!storage_.shards_gradients(b)) blank_->Begin(b, storage_.gradients(b), compute);
  }
  pool_->BeginStep();
  ForgetReady();
}

absl::StatusOr<bool> BucketReducer::Contribute(ParameterId id, StreamView compute) {
  RETURN_IF_ERROR(pool_->Hold(storage_.layout().bucket_of[static_cast<size_t>(id)], compute));
  return !blank_->TakeBlank(id);
}

absl::Status BucketReducer::Ready(ParameterId id, StreamView compute) {
  if (!last_microbatch_) return pool_->Ready(id, compute);
  const auto index = static_cast<size_t>(id);
  if (ready_[index]) {
    return absl::FailedPreconditionError(
        "the gradient of " + storage_.layout().parameter_names[index] +
        " was reported ready twice in one step; a shared weight is ready once, after its last use");
  }
  RETURN_IF_ERROR(pool_->Ready(id, compute));
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
  if (!storage_.shards_gradients(b)) {
    blank_->FillRest(b, storage_.gradients(b), compute);
    if (observer_) RETURN_IF_ERROR(observer_(b, storage_.gradients(b), compute));
  }
  if (bucket.group_size * bucket.copies == 1) return absl::OkStatus();
  const CollectiveLog::At place(mesh_.Group(bucket.replica_axis).log(), {.bucket = b});
  absl::Status status = ReduceInside(b, compute);
  if (status.ok()) status = ReduceAcross(b);
  if (!status.ok()) return kernels::Annotate(status, "reduction of " + bucket.name);
  comm_.Record(reduced_.view());
  return absl::OkStatus();
}

absl::Status BucketReducer::ReduceInside(int b, StreamView compute) {
  if (storage_.shards_gradients(b)) return pool_->Reduce(b, compute);
  compute.Record(filled_.view());
  comm_.Wait(filled_.view());
  const Axis axis = storage_.layout().buckets[static_cast<size_t>(b)].replica_axis;
  if (options_.zero_level == 0) {
    return AllReduce(storage_.gradients(b), ReduceOp::kSum, mesh_.Group(axis), comm_);
  }
  return ReduceScatter(storage_.gradients(b), storage_.gradient_shard(b), ReduceOp::kSum,
                       mesh_.ShardGroup(axis), comm_);
}

absl::Status BucketReducer::ReduceAcross(int b) {
  const Axis axis = storage_.layout().buckets[static_cast<size_t>(b)].replica_axis;
  const ProcessGroup* copies = mesh_.CopyGroup(axis);
  if (options_.zero_level == 0 || copies == nullptr) return absl::OkStatus();
  return AllReduce(storage_.gradient_shard(b), ReduceOp::kSum, *copies, comm_);
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
