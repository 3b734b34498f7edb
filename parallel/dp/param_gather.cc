#include "parallel/dp/param_gather.h"

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::Event;
using kernels::StreamView;

absl::StatusOr<std::unique_ptr<ParamGather>> ParamGather::Create(const BucketStorage& storage,
                                                                 const Mesh& mesh,
                                                                 DataParallelOptions options,
                                                                 StreamView comm) {
  ASSIGN_OR_RETURN(std::unique_ptr<WeightPool> pool,
                   WeightPool::Create(storage, mesh, options.overlap, comm));
  ASSIGN_OR_RETURN(Event updated, Event::Create(comm.device()));
  std::vector<Event> gathered;
  for (size_t b = 0; b < storage.layout().buckets.size(); ++b) {
    ASSIGN_OR_RETURN(Event event, Event::Create(comm.device()));
    gathered.push_back(std::move(event));
  }
  return std::unique_ptr<ParamGather>(new ParamGather(storage, mesh, options, comm, std::move(pool),
                                                      std::move(updated), std::move(gathered)));
}

ParamGather::ParamGather(const BucketStorage& storage, const Mesh& mesh,
                         DataParallelOptions options, StreamView comm,
                         std::unique_ptr<WeightPool> pool, Event updated,
                         std::vector<Event> gathered)
    : storage_(storage),
      mesh_(mesh),
      options_(options),
      comm_(comm),
      pool_(std::move(pool)),
      pending_(storage.layout().buckets.size()),
      updated_(std::move(updated)),
      gathered_(std::move(gathered)) {}

absl::Status ParamGather::Start(StreamView compute) {
  if (options_.zero_level == 0) return absl::OkStatus();
  pool_->Updated(compute);
  compute.Record(updated_.view());
  comm_.Wait(updated_.view());
  // Buckets are in backward order; the forward reads the last one first.
  for (int b = static_cast<int>(pending_.size()) - 1; b >= 0; --b) {
    const auto index = static_cast<size_t>(b);
    const Bucket& bucket = storage_.layout().buckets[index];
    if (bucket.group_size == 1 || storage_.shards_weights(b)) continue;
    const ProcessGroup& group = mesh_.ShardGroup(bucket.replica_axis);
    const CollectiveLog::At place(group.log(), {.bucket = b});
    const absl::Status status =
        AllGather(storage_.weight_shard(b), storage_.weights(b), group, comm_);
    if (!status.ok()) return kernels::Annotate(status, "gather of " + bucket.name);
    comm_.Record(gathered_[index].view());
    pending_[index] = true;
  }
  if (!options_.overlap) Finish(compute);
  return absl::OkStatus();
}

absl::Status ParamGather::Use(int bucket, StreamView compute) {
  WaitFor(bucket, compute);
  return pool_->Use(bucket, compute);
}

void ParamGather::WaitFor(int bucket, StreamView compute) {
  const auto index = static_cast<size_t>(bucket);
  if (!pending_[index]) return;
  const kernels::Span span(compute, "wait for weight gather", kExposedDp);
  compute.Wait(gathered_[index].view());
  pending_[index] = false;
}

void ParamGather::Finish(StreamView compute) {
  for (int b = static_cast<int>(pending_.size()) - 1; b >= 0; --b) WaitFor(b, compute);
}

absl::Status ParamGather::WriteWeights(const std::function<void(const Parameter&)>& write,
                                       StreamView compute) {
  for (int b = 0; b < static_cast<int>(pending_.size()); ++b) {
    const bool sharded = storage_.shards_weights(b);
    if (sharded) RETURN_IF_ERROR(pool_->UseEmpty(b, compute));
    for (const BucketSlice& slice : storage_.layout().buckets[static_cast<size_t>(b)].slices) {
      write(storage_.parameters()[slice.parameter]);
    }
    if (sharded) pool_->Store(b, compute);
  }
  pool_->Updated(compute);
  return absl::OkStatus();
}

}  // namespace muster::parallel
