#include "parallel/dp/buffer_pool.h"

#include <gtest/gtest.h>

namespace muster::parallel {
namespace {

BucketLayout LayoutOf(const std::vector<int64_t>& sizes) {
  BucketLayout layout;
  for (const int64_t size : sizes) {
    Bucket bucket;
    bucket.num_elements = size;
    layout.buckets.push_back(bucket);
  }
  return layout;
}

TEST(BufferPool, SharesBuffersAmongBucketsOfSimilarSize) {
  const BucketLayout layout = LayoutOf({100, 120, 5000, 127, 64, 70});
  kernels::ArenaPlan plan;
  const BufferPool pool(layout, std::vector<bool>(6, true), kernels::DType::kFloat32, "buffer",
                        plan);
  EXPECT_EQ(pool.num_buffers(), kPoolBuffers + 1);
  for (const int b : {1, 3, 4, 5}) EXPECT_EQ(pool.BuffersOf(b), pool.BuffersOf(0));
  EXPECT_EQ(pool.BuffersOf(2).size(), 1u);
  const auto arena = kernels::Arena::Allocate(plan, {});
  ASSERT_TRUE(arena.ok());
  EXPECT_EQ(pool.bytes(), (kPoolBuffers * 127 + 5000) * 4);
  EXPECT_EQ(pool.View(pool.BuffersOf(4)[0], 4).num_elements(), 64);
}

TEST(BufferPool, KeepsReplicaAxesApartAndLeavesOutWhatIsNotPooled) {
  BucketLayout layout = LayoutOf({100, 100, 100});
  layout.buckets[1].replica_axis = Axis::kExpertData;
  kernels::ArenaPlan plan;
  const BufferPool pool(layout, {true, true, false}, kernels::DType::kFloat32, "buffer", plan);
  EXPECT_NE(pool.BuffersOf(0), pool.BuffersOf(1));
  EXPECT_FALSE(pool.Pooled(2));
  EXPECT_EQ(pool.num_buffers(), 2);
}

TEST(PoolTurns, TakeWhatWasUsedLongestAgo) {
  const BucketLayout layout = LayoutOf({100, 100, 100, 100, 100});
  kernels::ArenaPlan plan;
  const BufferPool pool(layout, std::vector<bool>(5, true), kernels::DType::kFloat32, "buffer",
                        plan);
  ASSERT_EQ(pool.num_buffers(), 3);
  PoolTurns turns(pool, 5);
  for (const int b : {0, 1, 2}) turns.Take(turns.Next(b), b);
  EXPECT_EQ(turns.BucketIn(turns.Next(3)), 0);
  turns.Touch(0);
  EXPECT_EQ(turns.BucketIn(turns.Next(3)), 1);
  turns.Release(2);
  EXPECT_EQ(turns.BucketIn(turns.Next(3)), -1);
  EXPECT_EQ(turns.Holds(2), -1);
}

}  // namespace
}  // namespace muster::parallel
