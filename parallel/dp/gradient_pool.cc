#include "parallel/dp/gradient_pool.h"

#include "kernels/device/span.h"
#include "kernels/ops/reduce.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::EventView;
using kernels::StreamView;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<GradientPool>> GradientPool::Create(const BucketStorage& storage,
                                                                   const Mesh& mesh, bool overlap,
                                                                   StreamView comm,
                                                                   BlankGradients& blank) {
  ASSIGN_OR_RETURN(Event filled, Event::Create(comm.device()));
  std::vector<Event> free;
  for (int i = 0; i < storage.gradient_pool().num_buffers(); ++i) {
    ASSIGN_OR_RETURN(Event event, Event::Create(comm.device()));
    free.push_back(std::move(event));
  }
  return std::unique_ptr<GradientPool>(
      new GradientPool(storage, mesh, overlap, comm, blank, std::move(filled), std::move(free)));
}

GradientPool::GradientPool(const BucketStorage& storage, const Mesh& mesh, bool overlap,
                           StreamView comm, BlankGradients& blank, Event filled,
                           std::vector<Event> free)
    : storage_(storage),
      mesh_(mesh),
      overlap_(overlap),
      comm_(comm),
      blank_(blank),
      turns_(storage.gradient_pool(), static_cast<int>(storage.layout().buckets.size())),
      seen_(storage.layout().bucket_of.size()),
      missing_(storage.layout().buckets.size()),
      reduced_(storage.layout().buckets.size()),
      filled_(std::move(filled)),
      free_(std::move(free)) {
  BeginStep();
}

void GradientPool::Expect(int bucket) {
  for (const BucketSlice& slice : Of(bucket).slices) {
    seen_[static_cast<size_t>(slice.parameter)] = false;
  }
  missing_[static_cast<size_t>(bucket)] = static_cast<int>(Of(bucket).slices.size());
}

void GradientPool::BeginStep() {
  reduced_.assign(reduced_.size(), false);
  for (int b = 0; b < static_cast<int>(missing_.size()); ++b) {
    Expect(b);
    if (turns_.Holds(b) < 0) continue;
    turns_.Release(b);
    storage_.PointGradients(b, {});
  }
}

absl::Status GradientPool::Hold(int bucket, StreamView compute) {
  if (!storage_.shards_gradients(bucket)) return absl::OkStatus();
  if (turns_.Holds(bucket) >= 0) {
    turns_.Touch(bucket);
    return absl::OkStatus();
  }
  const int buffer = turns_.Next(bucket);
  if (turns_.BucketIn(buffer) >= 0) RETURN_IF_ERROR(Reduce(turns_.BucketIn(buffer), compute));
  turns_.Take(buffer, bucket);
  const TensorView whole = storage_.gradient_pool().View(buffer, bucket);
  {
    const kernels::Span span(compute, "wait for a gradient buffer", kExposedDp);
    compute.Wait(free_[static_cast<size_t>(buffer)].view());
  }
  blank_.Begin(bucket, whole, compute);
  storage_.PointGradients(bucket, whole);
  return absl::OkStatus();
}

absl::Status GradientPool::Ready(ParameterId id, StreamView compute) {
  const auto index = static_cast<size_t>(id);
  const int bucket = storage_.layout().bucket_of[index];
  if (!storage_.shards_gradients(bucket) || seen_[index]) return absl::OkStatus();
  seen_[index] = true;
  if (--missing_[static_cast<size_t>(bucket)] > 0) return absl::OkStatus();
  Expect(bucket);
  return Reduce(bucket, compute);
}

absl::Status GradientPool::Reduce(int bucket, StreamView compute) {
  const int buffer = turns_.Holds(bucket);
  if (buffer < 0) return absl::OkStatus();
  const EventView free = free_[static_cast<size_t>(buffer)].view();
  const TensorView whole = storage_.gradient_pool().View(buffer, bucket);
  blank_.FillRest(bucket, whole, compute);
  if (observer_) RETURN_IF_ERROR(observer_(bucket, whole, compute));
  compute.Record(filled_.view());
  comm_.Wait(filled_.view());
  const TensorView shard = storage_.gradient_shard(bucket);
  const bool adds = reduced_[static_cast<size_t>(bucket)];
  reduced_[static_cast<size_t>(bucket)] = true;
  const TensorView sum = adds ? ShardOf(whole, Of(bucket)) : shard;
  const ProcessGroup& group = mesh_.ShardGroup(Of(bucket).replica_axis);
  const CollectiveLog::At place(group.log(), {.bucket = bucket});
  const absl::Status status = ReduceScatter(whole, sum, ReduceOp::kSum, group, comm_);
  if (!status.ok()) return kernels::Annotate(status, "reduction of " + Of(bucket).name);
  if (adds) kernels::Add({.a = shard, .b = sum, .out = shard}, comm_);
  comm_.Record(free);
  turns_.Release(bucket);
  storage_.PointGradients(bucket, {});
  if (!overlap_) {
    const kernels::Span span(compute, "wait for gradient reduction", kExposedDp);
    compute.Wait(free);
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
