#pragma once
// Memory for whole buckets of which a rank keeps only its shard: few buffers that many buckets use
// in turn. Buckets of one replica axis and of similar size (within a power of two) share buffers,
// kPoolBuffers of them, so that one can be read or filled while another travels; a bucket that is
// alone in its size has a buffer of its own. BufferPool is the plan, PoolTurns is who has what now.
#include <cstdint>
#include <vector>

#include "kernels/tensor/arena.h"
#include "parallel/dp/grad_bucket.h"

namespace muster::parallel {

constexpr int kPoolBuffers = 3;  // of buckets of one size; at least 2, as an operator may read two

class BufferPool {
 public:
  // `pooled`: by bucket. Views are bound when the arena is allocated.
  BufferPool(const BucketLayout& layout, const std::vector<bool>& pooled, kernels::DType dtype,
             const std::string& name, kernels::ArenaPlan& plan);
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  bool Pooled(int bucket) const { return !buffers_of_[static_cast<size_t>(bucket)].empty(); }
  // The buffers that a bucket may have.
  const std::vector<int>& BuffersOf(int bucket) const {
    return buffers_of_[static_cast<size_t>(bucket)];
  }
  int num_buffers() const { return static_cast<int>(memory_.size()); }
  int64_t bytes() const;
  const kernels::TensorView& memory(int buffer) const {
    return memory_[static_cast<size_t>(buffer)];
  }
  // A buffer as the whole of a bucket, [num_elements].
  kernels::TensorView View(int buffer, int bucket) const;

 private:
  const BucketLayout& layout_;
  std::vector<std::vector<int>> buffers_of_;  // by bucket
  std::vector<kernels::TensorView> memory_;   // by buffer
};

// Who has which buffer, by the order of use: on all ranks of a stage alike, as they make the same
// calls.
class PoolTurns {
 public:
  PoolTurns(const BufferPool& pool, int num_buckets);
  // The buffer that holds the bucket, or -1; Touch makes it the one used last.
  int Holds(int bucket) const { return buffer_of_[static_cast<size_t>(bucket)]; }
  void Touch(int bucket) { used_[static_cast<size_t>(Holds(bucket))] = ++clock_; }
  int BucketIn(int buffer) const { return bucket_in_[static_cast<size_t>(buffer)]; }
  // The buffer to take for the bucket: an empty one, or the one used longest ago, whose bucket the
  // caller releases first.
  int Next(int bucket) const;
  void Take(int buffer, int bucket);
  void Release(int bucket);

 private:
  const BufferPool& pool_;
  std::vector<int> buffer_of_;  // by bucket
  std::vector<int> bucket_in_;  // by buffer
  std::vector<uint64_t> used_;  // by buffer
  uint64_t clock_ = 0;
};

}  // namespace muster::parallel
