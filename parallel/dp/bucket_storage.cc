#include <algorithm>

#include "parallel/dp/buffer_pool.h"
#include "parallel/dp/grad_bucket.h"

namespace muster::parallel {
namespace {

using kernels::TensorView;

// What a rank holds of a bucket: all of it, or, where others hold the rest, its shard.
int64_t HeldElements(const Bucket& bucket, bool sharded) {
  return sharded ? bucket.shard_elements() : bucket.num_elements;
}

std::vector<bool> ShardedBuckets(const BucketLayout& layout, bool level_shards) {
  std::vector<bool> sharded;
  for (const Bucket& bucket : layout.buckets) {
    sharded.push_back(level_shards && bucket.group_size > 1);
  }
  return sharded;
}

}  // namespace

BucketStorage::BucketStorage(const BucketLayout& layout, kernels::DType weight_dtype,
                             kernels::ArenaPlan& plan, int zero_level, bool copy_engines)
    : layout_(layout),
      weight_dtype_(weight_dtype),
      zero_level_(zero_level),
      weights_(layout.buckets.size()),
      gradients_(layout.buckets.size()) {
  const std::vector<bool> weights = ShardedBuckets(layout, zero_level >= 3);
  const std::vector<bool> gradients = ShardedBuckets(layout, zero_level >= 2);
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    const Bucket& bucket = layout.buckets[b];
    plan.Add(&weights_[b], bucket.name + " weights", weight_dtype,
             {HeldElements(bucket, weights[b])}, kernels::Lifetime::kPersistent);
    plan.Add(&gradients_[b], bucket.name + " gradients", gradient_dtype(),
             {HeldElements(bucket, gradients[b])}, kernels::Lifetime::kPersistent);
  }
  weight_pool_ =
      std::make_unique<BufferPool>(layout, weights, weight_dtype, "gathered weights", plan);
  gradient_pool_ =
      std::make_unique<BufferPool>(layout, gradients, gradient_dtype(), "bucket gradients", plan);
  int64_t received = 0;  // elements: the parts that peers send of a bucket
  for (const Bucket& bucket : layout.buckets) {
    received = std::max(received, bucket.num_elements - bucket.shard_elements());
  }
  if (copy_engines && received > 0) {
    plan.Add(&staging_, "gradients received by copy engines", gradient_dtype(), {received},
             kernels::Lifetime::kPersistent);
  }
}

BucketStorage::~BucketStorage() = default;

bool BucketStorage::shards_weights(int bucket) const { return weight_pool_->Pooled(bucket); }
bool BucketStorage::shards_gradients(int bucket) const { return gradient_pool_->Pooled(bucket); }

void BucketStorage::Bind(ParameterList& parameters) {
  parameters_ = &parameters;
  for (int b = 0; b < static_cast<int>(layout_.buckets.size()); ++b) {
    MUSTER_CHECK(gradients_[Index(b)]) << layout_.buckets[Index(b)].name << " has no memory yet: "
                                       << "allocate the arena before Bind";
    PointWeights(b, shards_weights(b) ? TensorView() : weights_[Index(b)]);
    PointGradients(b, shards_gradients(b) ? TensorView() : gradients_[Index(b)]);
  }
}

void BucketStorage::Point(int bucket, TensorView Parameter::*view, kernels::DType dtype,
                          const TensorView& whole) const {
  for (const BucketSlice& slice : layout_.buckets[Index(bucket)].slices) {
    Parameter& parameter = (*parameters_)[slice.parameter];
    const TensorView& held = weights_[Index(bucket)];
    parameter.*view =
        whole
            ? whole.Slice(0, slice.offset, slice.offset + slice.count).Reshape(parameter.slice.size)
            : TensorView(nullptr, dtype, parameter.slice.size, held.device);
  }
}

void BucketStorage::PointWeights(int bucket, const TensorView& whole) const {
  Point(bucket, &Parameter::weight, weight_dtype_, whole);
}

void BucketStorage::PointGradients(int bucket, const TensorView& whole) const {
  Point(bucket, &Parameter::gradient, gradient_dtype(), whole);
}

const TensorView& BucketStorage::weights(int bucket) const {
  MUSTER_CHECK(!shards_weights(bucket)) << layout_.buckets[Index(bucket)].name << " is sharded";
  return weights_[Index(bucket)];
}

const TensorView& BucketStorage::gradients(int bucket) const {
  MUSTER_CHECK(!shards_gradients(bucket)) << layout_.buckets[Index(bucket)].name << " is sharded";
  return gradients_[Index(bucket)];
}

TensorView BucketStorage::weight_shard(int bucket) const {
  const TensorView& held = weights_[Index(bucket)];
  return shards_weights(bucket) ? held : ShardOf(held, layout_.buckets[Index(bucket)]);
}

TensorView BucketStorage::gradient_shard(int bucket) const {
  const TensorView& held = gradients_[Index(bucket)];
  return shards_gradients(bucket) ? held : ShardOf(held, layout_.buckets[Index(bucket)]);
}

TensorView BucketStorage::counted_gradients(int bucket) const {
  const Bucket& of = layout_.buckets[Index(bucket)];
  const int64_t count = of.shard_elements() / of.copies;
  return gradient_shard(bucket).Slice(0, of.copy_rank * count, (of.copy_rank + 1) * count);
}

CopyMemory BucketStorage::copy_memory(Axis replica_axis) const {
  CopyMemory memory{.staging = staging_};
  std::vector<int> pool_buffers;
  for (int b = 0; b < static_cast<int>(layout_.buckets.size()); ++b) {
    const Bucket& bucket = layout_.buckets[Index(b)];
    if (bucket.replica_axis != replica_axis || bucket.group_size == 1) continue;
    if (!shards_weights(b)) {
      memory.targets.push_back(weights_[Index(b)]);
      continue;
    }
    for (const int buffer : weight_pool_->BuffersOf(b)) pool_buffers.push_back(buffer);
  }
  std::sort(pool_buffers.begin(), pool_buffers.end());
  pool_buffers.erase(std::unique(pool_buffers.begin(), pool_buffers.end()), pool_buffers.end());
  for (const int buffer : pool_buffers) memory.targets.push_back(weight_pool_->memory(buffer));
  return memory;
}

TensorView ShardOf(const TensorView& whole, const Bucket& bucket) {
  return whole.Slice(0, bucket.shard_begin(), bucket.shard_begin() + bucket.shard_elements());
}

}  // namespace muster::parallel
