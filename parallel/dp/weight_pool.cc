#include "parallel/dp/weight_pool.h"

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::StreamView;
using kernels::TensorView;

absl::StatusOr<std::unique_ptr<WeightPool>> WeightPool::Create(const BucketStorage& storage,
                                                               const Mesh& mesh, bool overlap,
                                                               StreamView comm) {
  ASSIGN_OR_RETURN(Event updated, Event::Create(comm.device()));
  std::vector<Event> released, gathered;
  for (int i = 0; i < 2 * storage.weight_pool().num_buffers(); ++i) {
    ASSIGN_OR_RETURN(Event event, Event::Create(comm.device()));
    (i % 2 == 0 ? released : gathered).push_back(std::move(event));
  }
  return std::unique_ptr<WeightPool>(new WeightPool(
      storage, mesh, overlap, comm, std::move(updated), std::move(released), std::move(gathered)));
}

WeightPool::WeightPool(const BucketStorage& storage, const Mesh& mesh, bool overlap,
                       StreamView comm, Event updated, std::vector<Event> released,
                       std::vector<Event> gathered)
    : storage_(storage),
      mesh_(mesh),
      overlap_(overlap),
      comm_(comm),
      turns_(storage.weight_pool(), static_cast<int>(storage.layout().buckets.size())),
      updated_(std::move(updated)),
      released_(std::move(released)),
      gathered_(std::move(gathered)),
      pending_(released_.size()) {}

void WeightPool::Drop(int bucket) {
  turns_.Release(bucket);
  storage_.PointWeights(bucket, {});
}

void WeightPool::Updated(StreamView compute) {
  compute.Record(updated_.view());
  comm_.Wait(updated_.view());
  for (int buffer = 0; buffer < storage_.weight_pool().num_buffers(); ++buffer) {
    if (turns_.BucketIn(buffer) >= 0) Drop(turns_.BucketIn(buffer));
  }
  last_used_.clear();
}

int WeightPool::TakeBuffer(int bucket, StreamView compute) {
  const int buffer = turns_.Next(bucket);
  if (turns_.BucketIn(buffer) >= 0) Drop(turns_.BucketIn(buffer));
  const Event& released = released_[static_cast<size_t>(buffer)];
  compute.Record(released.view());
  comm_.Wait(released.view());
  pending_[static_cast<size_t>(buffer)] = false;
  turns_.Take(buffer, bucket);
  storage_.PointWeights(bucket, storage_.weight_pool().View(buffer, bucket));
  return buffer;
}

absl::Status WeightPool::Gather(int bucket, StreamView compute) {
  const int buffer = TakeBuffer(bucket, compute);
  const ProcessGroup& group = mesh_.ShardGroup(Of(bucket).replica_axis);
  const CollectiveLog::At place(group.log(), {.bucket = bucket});
  const absl::Status status = AllGather(storage_.weight_shard(bucket),
                                        storage_.weight_pool().View(buffer, bucket), group, comm_);
  if (!status.ok()) return kernels::Annotate(status, "gather of " + Of(bucket).name);
  comm_.Record(gathered_[static_cast<size_t>(buffer)].view());
  pending_[static_cast<size_t>(buffer)] = true;
  ++num_gathers_;
  return absl::OkStatus();
}

// The next bucket of the same replicas in the direction of the pass, unless it is there, or would
// drive out this one or the one before: an operator may read both.
absl::Status WeightPool::GatherNext(int bucket, int before, StreamView compute) {
  const int num_buckets = static_cast<int>(storage_.layout().buckets.size());
  const int step = before >= 0 && before < bucket ? 1 : -1;  // buckets are in backward order
  int next = bucket + step;
  while (next >= 0 && next < num_buckets && Of(next).replica_axis != Of(bucket).replica_axis) {
    next += step;
  }
  if (next < 0 || next >= num_buckets || !storage_.shards_weights(next)) return absl::OkStatus();
  if (turns_.Holds(next) >= 0) return absl::OkStatus();
  const int victim = turns_.BucketIn(turns_.Next(next));
  if (victim >= 0 && (victim == bucket || victim == before)) return absl::OkStatus();
  return Gather(next, compute);
}

absl::Status WeightPool::Use(int bucket, StreamView compute) {
  if (!storage_.shards_weights(bucket)) return absl::OkStatus();
  auto last_used = last_used_.emplace(Of(bucket).replica_axis, -1).first;
  const int before = last_used->second;
  last_used->second = bucket;
  if (before >= 0 && turns_.Holds(before) >= 0) turns_.Touch(before);
  if (turns_.Holds(bucket) < 0) RETURN_IF_ERROR(Gather(bucket, compute));
  turns_.Touch(bucket);
  const auto buffer = static_cast<size_t>(turns_.Holds(bucket));
  if (overlap_ && bucket != before) RETURN_IF_ERROR(GatherNext(bucket, before, compute));
  if (!pending_[buffer]) return absl::OkStatus();
  const kernels::Span span(compute, "wait for weight gather", kExposedDp);
  compute.Wait(gathered_[buffer].view());
  pending_[buffer] = false;
  return absl::OkStatus();
}

absl::Status WeightPool::UseEmpty(int bucket, StreamView compute) {
  const int buffer = turns_.Holds(bucket) >= 0 ? turns_.Holds(bucket) : TakeBuffer(bucket, compute);
  // A gather that nobody has used may still be writing there.
  compute.Wait(gathered_[static_cast<size_t>(buffer)].view());
  kernels::FillZeroAsync(storage_.weight_pool().View(buffer, bucket), compute);
  return absl::OkStatus();
}

void WeightPool::Store(int bucket, StreamView compute) {
  const TensorView whole = storage_.weight_pool().View(turns_.Holds(bucket), bucket);
  kernels::CopyAsync(storage_.weight_shard(bucket), ShardOf(whole, Of(bucket)), compute);
  Drop(bucket);
}

}  // namespace muster::parallel
