#include "parallel/dp/buffer_pool.h"

#include <algorithm>
#include <bit>
#include <map>
#include <utility>

namespace muster::parallel {

BufferPool::BufferPool(const BucketLayout& layout, const std::vector<bool>& pooled,
                       kernels::DType dtype, const std::string& name, kernels::ArenaPlan& plan)
    : layout_(layout), buffers_of_(layout.buckets.size()) {
  std::map<std::pair<Axis, int>, std::vector<int>> classes;  // by axis and power of two
  for (size_t b = 0; b < layout.buckets.size(); ++b) {
    const Bucket& bucket = layout.buckets[b];
    if (!pooled[b]) continue;
    const int power = std::bit_width(static_cast<uint64_t>(bucket.num_elements));
    classes[{bucket.replica_axis, power}].push_back(static_cast<int>(b));
  }
  std::vector<std::pair<std::string, int64_t>> buffers;
  for (const auto& [key, buckets] : classes) {
    int64_t most = 0;
    for (const int b : buckets) {
      most = std::max(most, layout.buckets[static_cast<size_t>(b)].num_elements);
    }
    std::vector<int> ids;
    while (ids.size() < std::min<size_t>(kPoolBuffers, buckets.size())) {
      ids.push_back(static_cast<int>(buffers.size()));
      buffers.emplace_back(
          name + " " + std::to_string(buffers.size()) + " (" + Name(key.first) + ")", most);
    }
    for (const int b : buckets) buffers_of_[static_cast<size_t>(b)] = ids;
  }
  memory_.resize(buffers.size());  // before any view's address goes into the plan
  for (size_t i = 0; i < buffers.size(); ++i) {
    plan.Add(&memory_[i], buffers[i].first, dtype, {buffers[i].second},
             kernels::Lifetime::kPersistent);
  }
}

int64_t BufferPool::bytes() const {
  int64_t sum = 0;
  for (const kernels::TensorView& buffer : memory_) sum += buffer.bytes();
  return sum;
}

kernels::TensorView BufferPool::View(int buffer, int bucket) const {
  const Bucket& of = layout_.buckets[static_cast<size_t>(bucket)];
  return memory_[static_cast<size_t>(buffer)].Slice(0, 0, of.num_elements);
}

PoolTurns::PoolTurns(const BufferPool& pool, int num_buckets)
    : pool_(pool),
      buffer_of_(static_cast<size_t>(num_buckets), -1),
      bucket_in_(static_cast<size_t>(pool.num_buffers()), -1),
      used_(static_cast<size_t>(pool.num_buffers())) {}

int PoolTurns::Next(int bucket) const {
  int best = -1;
  for (const int buffer : pool_.BuffersOf(bucket)) {
    if (BucketIn(buffer) < 0) return buffer;
    const bool older =
        best < 0 || used_[static_cast<size_t>(buffer)] < used_[static_cast<size_t>(best)];
    if (older) best = buffer;
  }
  MUSTER_CHECK(best >= 0) << "bucket " << bucket << " has no buffers";
  return best;
}

void PoolTurns::Take(int buffer, int bucket) {
  MUSTER_CHECK(BucketIn(buffer) < 0 && Holds(bucket) < 0)
      << "buffer " << buffer << " or bucket " << bucket << " is taken";
  bucket_in_[static_cast<size_t>(buffer)] = bucket;
  buffer_of_[static_cast<size_t>(bucket)] = buffer;
  Touch(bucket);
}

void PoolTurns::Release(int bucket) {
  bucket_in_[static_cast<size_t>(Holds(bucket))] = -1;
  buffer_of_[static_cast<size_t>(bucket)] = -1;
}

}  // namespace muster::parallel
