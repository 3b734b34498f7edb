// ZeRO 2 and 3 and blocks of shards: what they change is where state lives, not what it is.
#include <gtest/gtest.h>

#include "parallel/dp/buffer_pool.h"
#include "tests/support/mpi_main.h"
#include "tests/support/parallel/training_job.h"

namespace muster::parallel {
namespace {

// Contributions are exact, so sums do not depend on their order.
JobOptions Exact(const MeshDegrees& degrees, int zero_level) {
  return {.degrees = degrees,
          .bucket_bytes = 1,
          .data_parallel = {.zero_level = zero_level},
          .max_norm = 1,
          .more_layers = 4,
          .exact = true};
}

// Where first contributions do not write gradients but are added to zeros.
JobOptions Adding(JobOptions options) {
  options.writes_gradients = false;
  return options;
}

std::vector<std::vector<double>> Train(const JobOptions& options) {
  TrainingJob job(TestWorld(), options);
  job.Run(3);
  return job.Weights();
}

TEST(Zero, EveryLevelAndBlockSizeTrainsTheSameWeights) {
  for (const MeshDegrees& degrees : ShardedJobDegrees(TestWorld().size())) {
    MeshDegrees undivided = degrees;
    undivided.shard = 0;
    const auto wanted = Train(Adding(Exact(undivided, 0)));
    for (const int zero_level : {1, 2, 3}) {
      EXPECT_EQ(Train(Exact(degrees, zero_level)), wanted)
          << degrees.ToString() << " shard " << degrees.shard << " zero " << zero_level;
    }
  }
}

// Of all gradients begun before the first is ready, only those in the pool's buffers can stay
// whole.
TEST(Zero, GradientsThatFindNoBufferAreReducedEarly) {
  for (const MeshDegrees& degrees : ShardedJobDegrees(TestWorld().size())) {
    const auto wanted = Train(Adding(Exact(degrees, 2)));
    for (const auto mode : {kernels::StreamMode::kInline, kernels::StreamMode::kQueue}) {
      for (const bool overlap : {false, true}) {
        JobOptions options = Exact(degrees, 3);
        options.data_parallel.overlap = overlap;
        options.compute_mode = mode;
        options.late_ready = true;
        EXPECT_EQ(Train(options), wanted) << degrees.ToString() << " shard " << degrees.shard;
      }
    }
  }
}

TEST(Zero, HoldsShardsAndPoolsOnly) {
  const MeshDegrees degrees = JobDegrees(TestWorld().size())[0];  // all experts everywhere
  int64_t elements = 0, before = 0;
  for (const int zero_level : {0, 1, 2, 3}) {
    JobOptions options = Exact(degrees, zero_level);
    options.weight_dtype = kernels::DType::kBFloat16;
    TrainingJob job(TestWorld(), options);
    elements = 0;
    for (const Bucket& bucket : job.layout().buckets) elements += bucket.num_elements;
    const int64_t ranks = TestWorld().size();
    const int64_t pools =
        job.storage().weight_pool().bytes() + job.storage().gradient_pool().bytes();
    const int64_t weights = 2 * elements / (zero_level >= 3 ? ranks : 1);
    const int64_t gradients = 4 * elements / (zero_level >= 2 ? ranks : 1);
    const int64_t optimizer = 12 * elements / (zero_level >= 1 ? ranks : 1);
    const int64_t wanted = weights + gradients + optimizer + pools;
    EXPECT_GE(job.planned_bytes(), wanted);
    // Rounding of each tensor, and the facts of the clip.
    const auto rounding = static_cast<int64_t>(5 * job.layout().buckets.size() + 8) * 512;
    EXPECT_LE(job.planned_bytes(), wanted + rounding);
    EXPECT_EQ(pools > 0, zero_level >= 2 && ranks > 1);
    if (zero_level > 0 && ranks > 1) {
      EXPECT_LT(job.planned_bytes() - pools, before) << "zero " << zero_level;
    }
    before = job.planned_bytes() - pools;
  }
}

TEST(Zero, PassesGatherEachBucketOnce) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "nothing is sharded in a world of one";
  for (const bool overlap : {false, true}) {
    JobOptions options = Exact(JobDegrees(TestWorld().size())[0], 3);
    options.data_parallel.overlap = overlap;
    TrainingJob job(TestWorld(), options);
    const auto num_buckets = static_cast<int64_t>(job.layout().buckets.size());
    EXPECT_EQ(job.gather().pool().num_gathers(), 0);
    for (int64_t pass = 1; pass <= 4; ++pass) {  // forward, backward, forward, backward
      for (int i = 0; i < job.parameters().size(); ++i) {
        const ParameterId id = pass % 2 == 1 ? i : job.parameters().size() - 1 - i;
        job.hooks().Use(id, job.compute());
      }
      EXPECT_LE(job.gather().pool().num_gathers(), pass * num_buckets);
    }
    EXPECT_GT(job.gather().pool().num_gathers(), 2 * num_buckets) << "the pool holds all";
    job.Synchronize();
  }
}

// An operator may read two weights, whatever buckets they are in.
TEST(Zero, TwoWeightsUsedInARowStayThere) {
  TrainingJob job(TestWorld(), Exact(JobDegrees(TestWorld().size())[0], 3));
  const auto wanted = job.Weights();
  const auto values_of = [&](ParameterId id) { return wanted[static_cast<size_t>(id)]; };
  for (ParameterId a = 0; a < job.parameters().size(); ++a) {
    for (ParameterId b = 0; b < job.parameters().size(); ++b) {
      ASSERT_TRUE(job.gather().Start(job.compute()).ok());  // forgets what was gathered
      job.hooks().Use(a, job.compute());
      const kernels::TensorView first = job.parameters()[a].weight;
      job.hooks().Use(b, job.compute());
      const kernels::TensorView second = job.parameters()[b].weight;
      ASSERT_TRUE(job.compute().Synchronize().ok());
      ASSERT_TRUE(job.comm().Synchronize().ok());
      EXPECT_EQ(kernels::Values(first), values_of(a)) << a << " before " << b;
      EXPECT_EQ(kernels::Values(second), values_of(b)) << b << " after " << a;
    }
  }
}

}  // namespace
}  // namespace muster::parallel
