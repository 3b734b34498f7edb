#pragma once
// Buckets: contiguous runs of gradients (and of weights, in the same layout) that are reduced,
// updated and gathered as one. Parameters enter in backward order (the reverse of the list), so a
// bucket is complete as early as the backward can make it. Parameters whose replicas are different
// groups (dense and expert ones) go to separate buckets, and a weight that is tied to another stage
// goes to one of its own, which is then the same on the ranks of both stages. PlanBuckets is pure;
// who decides bucket sizes is its `bucket_bytes`.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor/arena.h"
#include "parallel/comm/communicator.h"
#include "parallel/mesh/parameter.h"

namespace muster::parallel {

struct BucketSlice {
  ParameterId parameter;
  int64_t offset, count;  // elements within the bucket
};

struct Bucket {
  std::string name;  // "bucket 3 (dp_cp)"
  Axis replica_axis = Axis::kDenseReplica;
  Tie tie = Tie::kNone;
  int group_size =
      1;  // ranks that shard it: all replicas, or those of one block (zero.shard_ranks)
  int group_rank = 0;
  int copies = 1;  // blocks: ranks that hold the same shard
  int copy_rank = 0;
  std::vector<BucketSlice> slices;
  int64_t num_elements = 0;  // padded: a multiple of replicas x kBucketAlignment

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

// This rank's part of a tensor of the whole bucket.
kernels::TensorView ShardOf(const kernels::TensorView& whole, const Bucket& bucket);

class BufferPool;

// The memory of all buckets, gradients in the accumulator dtype of the weights. ZeRO 0 and 1 hold
// whole buckets. From ZeRO 2 on gradients, from 3 on weights are held as shards, with a small pool
// of buffers for whole buckets (buffer_pool.h); parameters point there while a bucket has one.
// Of n weights of w bytes over r ranks (m = 4 with a master copy, else 0), bytes a rank holds:
//   ZeRO 0  n (w + 4 + 8 + m)              2  n w + n (4 + 8 + m) / r + gradient pool
//        1  n (w + 4) + n (8 + m) / r      3  n (w + 4 + 8 + m) / r + both pools
// Where copy engines reduce (dp/copy_engines.h), they want (r - 1) / r of the largest bucket's
// gradients more. Construct, then allocate the arena, then Bind. `layout` must outlive it.
class BucketStorage {
 public:
  BucketStorage(const BucketLayout& layout, kernels::DType weight_dtype, kernels::ArenaPlan& plan,
                int zero_level = 1, bool copy_engines = false);
  ~BucketStorage();
  BucketStorage(const BucketStorage&) = delete;
  BucketStorage& operator=(const BucketStorage&) = delete;

  // Points every parameter's weight and gradient into its bucket; to null what is held as shards.
  // `parameters` must outlive this.
  void Bind(ParameterList& parameters);
  // Points the parameters of a bucket into `whole` [num_elements], or, if that is null, to null.
  void PointWeights(int bucket, const kernels::TensorView& whole) const;
  void PointGradients(int bucket, const kernels::TensorView& whole) const;
  const ParameterList& parameters() const { return *parameters_; }

  bool shards_weights(int bucket) const;
  bool shards_gradients(int bucket) const;
  // Whole buckets. CHECK that they are not held as shards.
  const kernels::TensorView& weights(int bucket) const;
  const kernels::TensorView& gradients(int bucket) const;
  // This rank's part.
  kernels::TensorView weight_shard(int bucket) const;
  kernels::TensorView gradient_shard(int bucket) const;
  // What is held: the whole bucket, or the shard.
  const kernels::TensorView& held_gradients(int bucket) const { return gradients_[Index(bucket)]; }
  // A part of the shard such that over all replicas each element counts once.
  kernels::TensorView counted_gradients(int bucket) const;
  const BufferPool& weight_pool() const { return *weight_pool_; }
  const BufferPool& gradient_pool() const { return *gradient_pool_; }
  // For copy engines: the memory through which the ranks along a replica axis move their buckets.
  // No targets: they move none.
  CopyMemory copy_memory(Axis replica_axis) const;
  const BucketLayout& layout() const { return layout_; }
  kernels::DType weight_dtype() const { return weight_dtype_; }
  kernels::DType gradient_dtype() const { return kernels::AccumulatorDType(weight_dtype_); }
  int zero_level() const { return zero_level_; }

 private:
  static size_t Index(int bucket) { return static_cast<size_t>(bucket); }
  void Point(int bucket, kernels::TensorView Parameter::*view, kernels::DType dtype,
             const kernels::TensorView& whole) const;
  const BucketLayout& layout_;
  const kernels::DType weight_dtype_;
  const int zero_level_;
  std::vector<kernels::TensorView> weights_, gradients_;  // by bucket, what is held
  std::unique_ptr<BufferPool> weight_pool_, gradient_pool_;
  kernels::TensorView staging_;  // null without copy engines
  ParameterList* parameters_ = nullptr;
};

}  // namespace muster::parallel
