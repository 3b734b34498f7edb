#include "parallel/dp/grad_bucket.h"

#include <gtest/gtest.h>

#include <set>

namespace muster::parallel {
namespace {

using kernels::DType;

class GradBucket : public ::testing::Test {
 protected:
  GradBucket() : world_(World::Alone()) {
    MeshDegrees degrees;
    degrees.dp = 1;
    mesh_ = *Mesh::Create(*world_, degrees, {});
    parameters_ = std::make_unique<ParameterList>(*mesh_);
  }
  ParameterId Add(int64_t rows, int64_t columns, bool expert = false) {
    const std::string name = "p" + std::to_string(parameters_->size());
    const Axis axis = expert ? Axis::kExpertData : Axis::kDenseReplica;
    return parameters_->Add(name, {rows, columns}, {.shards = {}, .replica_axis = axis}, {});
  }
  BucketLayout Plan(int64_t bucket_bytes) const {
    return PlanBuckets(*parameters_, bucket_bytes, DType::kFloat32);
  }

  std::unique_ptr<World> world_;
  std::unique_ptr<Mesh> mesh_;
  std::unique_ptr<ParameterList> parameters_;
};

TEST_F(GradBucket, EveryParameterLiesOnceAlignedAndWithoutOverlap) {
  for (int i = 1; i <= 40; ++i) Add(i, 7 + i % 5, i % 3 == 0);
  for (int64_t bucket_bytes : {1, 4096, 1 << 20}) {
    const BucketLayout layout = Plan(bucket_bytes);
    std::set<ParameterId> seen;
    for (size_t b = 0; b < layout.buckets.size(); ++b) {
      const Bucket& bucket = layout.buckets[b];
      EXPECT_EQ(bucket.num_elements % (bucket.group_size * kBucketAlignment), 0);
      int64_t end = 0;
      for (const BucketSlice& slice : bucket.slices) {
        EXPECT_TRUE(seen.insert(slice.parameter).second);
        EXPECT_EQ(layout.bucket_of[static_cast<size_t>(slice.parameter)], static_cast<int>(b));
        EXPECT_EQ((*parameters_)[slice.parameter].placement.replica_axis, bucket.replica_axis);
        EXPECT_EQ(slice.count, (*parameters_)[slice.parameter].slice.size.num_elements());
        EXPECT_EQ(slice.offset % kBucketAlignment, 0);
        EXPECT_GE(slice.offset, end);
        EXPECT_LT(slice.offset, end + kBucketAlignment);
        end = slice.offset + slice.count;
      }
      EXPECT_GE(bucket.num_elements, end);
      EXPECT_LT(bucket.num_elements, end + bucket.group_size * kBucketAlignment);
    }
    EXPECT_EQ(seen.size(), 40u);
  }
}

TEST_F(GradBucket, AreInTheOrderInWhichTheBackwardCompletesThem) {
  for (int i = 0; i < 30; ++i) Add(8, 16, i % 4 == 1);
  const BucketLayout layout = Plan(1200);
  ASSERT_GT(layout.buckets.size(), 4u);
  ParameterId last_completed = parameters_->size();
  for (const Bucket& bucket : layout.buckets) {
    ParameterId previous = parameters_->size();
    for (const BucketSlice& slice : bucket.slices) {
      EXPECT_LT(slice.parameter, previous);
      previous = slice.parameter;
    }
    EXPECT_LT(previous, last_completed);
    last_completed = previous;
  }
}

TEST_F(GradBucket, CloseOnceTheyHoldTheWantedBytes) {
  for (int i = 0; i < 10; ++i) Add(4, 64);  // 1024 bytes of gradients each
  EXPECT_EQ(Plan(1).buckets.size(), 10u);
  EXPECT_EQ(Plan(1024).buckets.size(), 10u);
  EXPECT_EQ(Plan(1025).buckets.size(), 5u);
  EXPECT_EQ(Plan(4096).buckets.size(), 3u);  // 4 + 4 + 2
  EXPECT_EQ(Plan(1 << 20).buckets.size(), 1u);
}

TEST_F(GradBucket, AreNamedByIndexAndReplicaAxis) {
  Add(4, 4, true);
  Add(4, 4);
  const BucketLayout layout = Plan(1 << 20);
  ASSERT_EQ(layout.buckets.size(), 2u);
  EXPECT_EQ(layout.buckets[0].name, "bucket 0 (dp_cp)");
  EXPECT_EQ(layout.buckets[1].name, "bucket 1 (edp)");
  EXPECT_EQ(layout.parameter_names, (std::vector<std::string>{"p0", "p1"}));
}

TEST_F(GradBucket, BindPointsParametersIntoTheBuckets) {
  const ParameterId a = Add(3, 5), b = Add(2, 33);
  const BucketLayout layout = Plan(1 << 20);
  kernels::ArenaPlan plan;
  BucketStorage storage(layout, DType::kBFloat16, plan);
  const auto arena = kernels::Arena::Allocate(plan, {});
  ASSERT_TRUE(arena.ok());
  storage.Bind(*parameters_);
  for (ParameterId id : {a, b}) {
    const Parameter& p = (*parameters_)[id];
    EXPECT_EQ(p.weight.shape, p.slice.size);
    EXPECT_EQ(p.weight.dtype, DType::kBFloat16);
    EXPECT_EQ(p.gradient.shape, p.slice.size);
    EXPECT_EQ(p.gradient.dtype, DType::kFloat32);
  }
  // b is the first slice; it has 66 elements, so a starts at the second alignment boundary.
  EXPECT_EQ((*parameters_)[b].weight.data, storage.weights(0).data);
  EXPECT_EQ((*parameters_)[a].gradient.as<float>(),
            storage.gradients(0).as<float>() + 2 * kBucketAlignment);
}

}  // namespace
}  // namespace muster::parallel
