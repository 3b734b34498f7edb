#include "parallel/dp/grad_bucket.h"

#include <algorithm>
#include <map>

namespace muster::parallel {
namespace {

using kernels::TensorView;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The parameter whose gradient the backward writes last.
ParameterId LastParameter(const Bucket& bucket) { return bucket.slices.back().parameter; }

TensorView ShardOf(const TensorView& flat, const Bucket& bucket) {
  return flat.Slice(0, bucket.shard_begin(), bucket.shard_begin() + bucket.shard_elements());
}

}  // namespace

BucketLayout PlanBuckets(const ParameterList& parameters, int64_t bucket_bytes,
                         kernels::DType gradient_dtype) {
  BucketLayout layout;
  std::map<Axis, Bucket> open;
  const auto close = [&](Bucket& bucket) {
    const ProcessGroup& group = parameters.mesh().Group(bucket.replica_axis);
    bucket.group_size = group.size();
    bucket.group_rank = group.rank();
    bucket.num_elements = RoundUp(bucket.num_elements, group.size() * kBucketAlignment);
    layout.buckets.push_back(std::move(bucket));
    bucket = Bucket();
  };
  for (ParameterId id = parameters.size() - 1; id >= 0; --id) {
    const Parameter& parameter = parameters[id];
    Bucket& bucket = open[parameter.placement.replica_axis];
    bucket.replica_axis = parameter.placement.replica_axis;
    const int64_t offset = RoundUp(bucket.num_elements, kBucketAlignment);
    const int64_t count = parameter.slice.size.num_elements();
    bucket.slices.push_back({id, offset, count});
    bucket.num_elements = offset + count;
    if (bucket.num_elements * kernels::SizeOf(gradient_dtype) >= bucket_bytes) close(bucket);
  }
  for (auto& [axis, bucket] : open) {
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

BucketStorage::BucketStorage(const BucketLayout& layout, kernels::DType weight_dtype,
                             kernels::ArenaPlan& plan)
    : layout_(layout),
      weight_dtype_(weight_dtype),
      weights_(layout.buckets.size()),
      gradients_(layout.buckets.size()) {
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    const Bucket& bucket = layout.buckets[b];
    plan.Add(&weights_[b], bucket.name + " weights", weight_dtype, {bucket.num_elements},
             kernels::Lifetime::kPersistent);
    plan.Add(&gradients_[b], bucket.name + " gradients", gradient_dtype(), {bucket.num_elements},
             kernels::Lifetime::kPersistent);
  }
}

void BucketStorage::Bind(ParameterList& parameters) const {
  for (size_t b = 0; b < layout_.buckets.size(); ++b) {
    MUSTER_CHECK(gradients_[b]) << layout_.buckets[b].name << " has no memory yet: allocate the "
                                << "arena before Bind";
    for (const BucketSlice& slice : layout_.buckets[b].slices) {
      Parameter& parameter = parameters[slice.parameter];
      const int64_t end = slice.offset + slice.count;
      parameter.weight = weights_[b].Slice(0, slice.offset, end).Reshape(parameter.slice.size);
      parameter.gradient = gradients_[b].Slice(0, slice.offset, end).Reshape(parameter.slice.size);
    }
  }
}

TensorView BucketStorage::weight_shard(int bucket) const {
  return ShardOf(weights(bucket), layout_.buckets[Index(bucket)]);
}

TensorView BucketStorage::gradient_shard(int bucket) const {
  return ShardOf(gradients(bucket), layout_.buckets[Index(bucket)]);
}

}  // namespace muster::parallel
