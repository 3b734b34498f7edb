#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/comm/collectives.h"
#include "parallel/optim/sharded_adamw.h"
#include "tests/support/kernels/tolerance.h"
#include "tests/support/mpi_main.h"
#include "tests/support/parallel/training_job.h"

namespace muster::parallel {
namespace {

using kernels::BFloat16;
using kernels::DType;

// Contributions are exact, so the reference's gradients have the same bits.
class ShardedAdamWTest : public ::testing::TestWithParam<DType> {
 protected:
  JobOptions Options(const MeshDegrees& degrees, int zero_level) const {
    return {.degrees = degrees,
            .weight_dtype = GetParam(),
            .data_parallel = {.zero_level = zero_level},
            .exact = true};
  }
};

TEST_P(ShardedAdamWTest, EqualsUnsharded) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    const std::unique_ptr<World> alone = World::Alone();
    TrainingJob reference(*alone, OneRankReference(Options(degrees, 0), TestWorld().size()));
    reference.Run(3);
    const auto wanted = reference.Weights();
    for (int zero_level : {0, 1, 2, 3}) {
      TrainingJob job(TestWorld(), Options(degrees, zero_level));
      job.Run(3);
      const auto weights = job.Weights();
      for (ParameterId id = 0; id < job.parameters().size(); ++id) {
        EXPECT_EQ(weights[static_cast<size_t>(id)],
                  reference.SliceFor(job, id, wanted[static_cast<size_t>(id)]))
            << job.parameters()[id].global_name << ", " << degrees.ToString() << " zero "
            << zero_level;
      }
    }
  }
}

TEST_P(ShardedAdamWTest, StatesOfAllShardsEqualTheUnshardedState) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    const std::unique_ptr<World> alone = World::Alone();
    TrainingJob reference(*alone, OneRankReference(Options(degrees, 0), TestWorld().size()));
    reference.Run(2);
    TrainingJob job(TestWorld(), Options(degrees, 3));
    job.Run(2);
    int64_t num_elements = 0;
    for (const OptimizerSlice& slice : job.adamw().Slices()) {
      const Parameter& mine = job.parameters()[slice.parameter];
      const int64_t begin = RangeOf(mine, mine.slice).begin + slice.begin;
      for (const OptimizerSlice& whole : reference.adamw().Slices()) {
        if (whole.parameter != slice.parameter) continue;
        ASSERT_EQ(whole.begin, 0);
        const auto equal = [&](const kernels::TensorView& part, const kernels::TensorView& all) {
          EXPECT_EQ(kernels::Values(part),
                    kernels::Values(all.Slice(0, begin, begin + slice.count)))
              << mine.global_name;
        };
        equal(slice.master, whole.master);
        equal(slice.moment1, whole.moment1);
        equal(slice.moment2, whole.moment2);
      }
      num_elements += slice.count;
    }
    // The shards of the replicas make each parameter whole.
    int64_t wanted = 0;
    for (const Parameter& p : job.parameters()) {
      wanted += p.global_shape.num_elements();
    }
    auto total = kernels::TensorOf(DType::kInt64, {1}, {static_cast<double>(num_elements)});
    ASSERT_TRUE(
        AllReduce(total.view(), ReduceOp::kSum, job.mesh().Group(Axis::kWorld), job.compute())
            .ok());
    EXPECT_EQ(kernels::GetValue(total.view(), 0), static_cast<double>(wanted));
  }
}

INSTANTIATE_TEST_SUITE_P(WeightDTypes, ShardedAdamWTest,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16),
                         [](const auto& info) { return std::string(kernels::Name(info.param)); });

TEST(ShardedAdamW, MasterKeepsWhatBf16WeightsRound) {
  TrainingJob job(TestWorld(),
                  {.degrees = JobDegrees(TestWorld().size())[0], .weight_dtype = DType::kBFloat16});
  job.Run(3);
  int64_t finer = 0;
  for (const OptimizerSlice& slice : job.adamw().Slices()) {
    const Parameter& parameter = job.parameters()[slice.parameter];
    for (int64_t i = 0; i < slice.count; ++i) {
      const auto master = static_cast<float>(kernels::GetValue(slice.master, i));
      const auto weight = static_cast<float>(kernels::GetValue(parameter.weight, slice.begin + i));
      EXPECT_EQ(weight, static_cast<float>(BFloat16(master)));
      finer += weight != master;
    }
  }
  EXPECT_GT(finer, 0);
}

TEST(ShardedAdamW, Fp32WeightsAreTheirOwnMaster) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  for (const OptimizerSlice& slice : job.adamw().Slices()) {
    EXPECT_EQ(slice.master.as<float>(),
              job.parameters()[slice.parameter].weight.as<float>() + slice.begin);
  }
}

TEST(ShardedAdamW, MasterStartsFromTheWeights) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size()).back(),
                                .weight_dtype = DType::kBFloat16});
  for (const OptimizerSlice& slice : job.adamw().Slices()) {
    for (int64_t i = 0; i < slice.count; ++i) {
      EXPECT_EQ(kernels::GetValue(slice.master, i),
                kernels::GetValue(job.parameters()[slice.parameter].weight, slice.begin + i));
    }
  }
}

// Without a gradient only the decay moves a weight: by learning rate times weight decay of itself.
TEST(ShardedAdamW, DecaysOnlyTheParametersThatAskForIt) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size()).back()});
  const auto before = job.Weights();
  job.reducer().BeginStep(job.compute());
  ASSERT_TRUE(job.clip().Measure(job.compute()).ok());
  job.adamw().Step(/*learning_rate=*/0.5, 1, job.clip().facts(), job.compute());
  ASSERT_TRUE(job.gather().Start(job.compute()).ok());
  job.Synchronize();
  const auto after = job.Weights();
  for (ParameterId id = 0; id < job.parameters().size(); ++id) {
    const Parameter& parameter = job.parameters()[id];
    const double kept = parameter.weight_decay ? 1 - 0.5 * double{AdamWOptions().weight_decay} : 1;
    for (size_t i = 0; i < after[static_cast<size_t>(id)].size(); ++i) {
      const double wanted = kept * before[static_cast<size_t>(id)][i];
      EXPECT_NEAR(after[static_cast<size_t>(id)][i], wanted, 1e-6 * std::fabs(wanted))
          << parameter.global_name;
    }
  }
}

TEST(ShardedAdamW, PaddingStaysZero) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0], .bucket_bytes = 1});
  job.Run(2);
  int64_t padding = 0;
  for (size_t b = 0; b < job.layout().buckets.size(); ++b) {
    const Bucket& bucket = job.layout().buckets[b];
    const BucketSlice& slice = bucket.slices.back();
    for (int64_t i = slice.offset + slice.count; i < bucket.num_elements; ++i, ++padding) {
      EXPECT_EQ(job.storage().weights(static_cast<int>(b)).as<float>()[i], 0.0f);
    }
  }
  EXPECT_GT(padding, 0);
}

TEST(ShardedAdamW, NonFiniteGradientSkipsTheUpdateOnAllRanks) {
  for (int zero_level : {0, 1}) {
    TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size()).back(),
                                  .data_parallel = {.zero_level = zero_level},
                                  .max_norm = 1});
    job.Run(1);
    const auto weights = job.Weights();
    // One element of one rank's gradient is infinite when it is reported ready.
    job.spoil = TestWorld().rank() == TestWorld().size() - 1;
    ASSERT_TRUE(job.Step(2).ok());
    job.Synchronize();
    EXPECT_EQ(kernels::GetValue(job.clip().facts().scale, 0), 0.0);
    EXPECT_EQ(job.Weights(), weights);
    job.spoil = false;
    ASSERT_TRUE(job.Step(3).ok());
    job.Synchronize();
    EXPECT_NE(job.Weights(), weights);
  }
}

TEST(GradientClip, NormAndScaleEqualThePlainOnes) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    for (int zero_level : {0, 1}) {
      const JobOptions options{.degrees = degrees,
                               .data_parallel = {.zero_level = zero_level},
                               .max_norm = 0.5,
                               .exact = true};
      const std::unique_ptr<World> alone = World::Alone();
      TrainingJob reference(*alone, OneRankReference(options, TestWorld().size()));
      ASSERT_TRUE(reference.ReduceGradients(1).ok());
      double sum = 0;
      for (const Parameter& p : reference.parameters()) {
        for (double g : kernels::Values(p.gradient)) sum += g * g;
      }
      TrainingJob job(TestWorld(), options);
      ASSERT_TRUE(job.ReduceGradients(1).ok());
      ASSERT_TRUE(job.clip().Measure(job.compute()).ok());
      ASSERT_TRUE(job.compute().Synchronize().ok());
      const GradientFacts& facts = job.clip().facts();
      EXPECT_TRUE(kernels::IsClose(facts.sum_of_squares, {sum})) << degrees.ToString();
      EXPECT_TRUE(kernels::IsClose(facts.norm, {std::sqrt(sum)}));
      EXPECT_TRUE(kernels::IsClose(facts.scale, {0.5 / (std::sqrt(sum) + 1e-6)}));
    }
  }
}

}  // namespace
}  // namespace muster::parallel
