#pragma once
// Buckets: contiguous runs of gradients (and of weights, in the same layout) that are reduced,
// updated and gathered as one. Parameters enter in backward order (the reverse of the list), so a
// bucket is complete as early as the backward can make it. Parameters whose replicas are different
// groups (dense and expert ones) go to separate buckets. PlanBuckets is pure; who decides bucket
// sizes is its `bucket_bytes`.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor/arena.h"
#include "parallel/mesh/parameter.h"

namespace muster::parallel {

struct BucketSlice {
  ParameterId parameter;
  int64_t offset, count;  // elements within the bucket
};

struct Bucket {
  std::string name;  // "bucket 3 (dp_cp)"
  Axis replica_axis = Axis::kDenseReplica;
  int group_size = 1;  // replicas: ranks that reduce it together
  int group_rank = 0;
  std::vector<BucketSlice> slices;
  int64_t num_elements = 0;  // padded: a multiple of group_size * kBucketAlignment

  int64_t shard_elements() const { return num_elements / group_size; }
  int64_t shard_begin() const { return group_rank * shard_elements(); }
};

constexpr int64_t kBucketAlignment = 64;  // elements; each shard and each parameter starts aligned

struct BucketLayout {
  std::vector<Bucket> buckets;  // in backward order
  std::vector<int> bucket_of;   // by ParameterId
  // Global names, by ParameterId, for messages.
  std::vector<std::string> parameter_names;
};

// Closes a bucket once it holds bucket_bytes of gradients; a parameter is never split over buckets.
// Buckets are ordered by when the backward completes them.
BucketLayout PlanBuckets(const ParameterList& parameters, int64_t bucket_bytes,
                         kernels::DType gradient_dtype);

// The memory of all buckets, gradients in the accumulator dtype of the weights. Construct, then
// allocate the arena, then Bind. `layout` must outlive it.
class BucketStorage {
 public:
  BucketStorage(const BucketLayout& layout, kernels::DType weight_dtype, kernels::ArenaPlan& plan);
  // Points every parameter's weight and gradient into its bucket.
  void Bind(ParameterList& parameters) const;
  const kernels::TensorView& weights(int bucket) const { return weights_[Index(bucket)]; }
  const kernels::TensorView& gradients(int bucket) const { return gradients_[Index(bucket)]; }
  // This rank's part.
  kernels::TensorView weight_shard(int bucket) const;
  kernels::TensorView gradient_shard(int bucket) const;
  const BucketLayout& layout() const { return layout_; }
  kernels::DType weight_dtype() const { return weight_dtype_; }
  kernels::DType gradient_dtype() const { return kernels::AccumulatorDType(weight_dtype_); }

 private:
  static size_t Index(int bucket) { return static_cast<size_t>(bucket); }
  const BucketLayout& layout_;
  const kernels::DType weight_dtype_;
  std::vector<kernels::TensorView> weights_, gradients_;
};

}  // namespace muster::parallel
