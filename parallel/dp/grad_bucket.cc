#include "parallel/dp/grad_bucket.h"

#include <algorithm>
#include <map>

namespace muster::parallel {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The parameter whose gradient the backward writes last.
ParameterId LastParameter(const Bucket& bucket) { return bucket.slices.back().parameter; }

}  // namespace

BucketLayout PlanBuckets(const ParameterList& parameters, int64_t bucket_bytes,
                         kernels::DType gradient_dtype) {
  BucketLayout layout;
  std::map<std::pair<Axis, Tie>, Bucket> open;
  const auto close = [&](Bucket& bucket) {
    const ProcessGroup& shards = parameters.mesh().ShardGroup(bucket.replica_axis);
    bucket.group_size = shards.size();
    bucket.group_rank = shards.rank();
    if (const ProcessGroup* copies = parameters.mesh().CopyGroup(bucket.replica_axis)) {
      bucket.copies = copies->size();
      bucket.copy_rank = copies->rank();
    }
    const int replicas = bucket.group_size * bucket.copies;
    bucket.num_elements = RoundUp(bucket.num_elements, replicas * kBucketAlignment);
    layout.buckets.push_back(std::move(bucket));
    bucket = Bucket();
  };
  for (ParameterId id = parameters.size() - 1; id >= 0; --id) {
    const Parameter& parameter = parameters[id];
    Bucket& bucket = open[{parameter.placement.replica_axis, parameter.placement.tie}];
    bucket.tie = parameter.placement.tie;
    bucket.replica_axis = parameter.placement.replica_axis;
    const int64_t offset = RoundUp(bucket.num_elements, kBucketAlignment);
    const int64_t count = parameter.slice.size.num_elements();
    bucket.slices.push_back({id, offset, count});
    bucket.num_elements = offset + count;
    if (bucket.num_elements * kernels::SizeOf(gradient_dtype) >= bucket_bytes) close(bucket);
  }
  for (auto& [key, bucket] : open) {
    if (!bucket.slices.empty()) close(bucket);
  }
  std::sort(layout.buckets.begin(), layout.buckets.end(),
            [](const Bucket& a, const Bucket& b) { return LastParameter(a) > LastParameter(b); });

  layout.bucket_of.resize(static_cast<size_t>(parameters.size()));
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    Bucket& bucket = layout.buckets[b];
    bucket.name = "bucket " + std::to_string(b) + " (" + Name(bucket.replica_axis) + ")";
    for (const BucketSlice& slice : bucket.slices) {
      layout.bucket_of[static_cast<size_t>(slice.parameter)] = static_cast<int>(b);
    }
  }
  for (const Parameter& parameter : parameters) {
    layout.parameter_names.push_back(parameter.global_name);
  }
  return layout;
}

}  // namespace muster::parallel
