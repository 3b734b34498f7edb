#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

#include "kernels/device/span.h"
#include "parallel/dp/data_parallel.h"
#include "tests/support/mpi_main.h"
#include "tests/support/parallel/training_job.h"

namespace muster::parallel {
namespace {

using kernels::GetValue;
using kernels::TensorView;

std::string NameOf(const MeshDegrees& degrees, int zero_level) {
  return degrees.ToString() + " shard " + std::to_string(degrees.shard) + " zero " +
         std::to_string(zero_level);
}

// The arithmetic that the contract promises: fp32, each rank's microbatches in order, then the
// ranks of the group in order; from ZeRO 2 on, of each microbatch the ranks in order.
float ReducedGradient(const TrainingJob& job, const Parameter& parameter, int64_t index,
                      int64_t step) {
  const ProcessGroup& group = job.mesh().Group(parameter.placement.replica_axis);
  float sum = 0;
  if (job.options().data_parallel.zero_level >= 2 && group.size() > 1) {
    for (int m = 0; m < job.options().microbatches; ++m) {
      float of_ranks = 0;
      for (const int rank : group.world_ranks()) {
        of_ranks += Contribution(parameter, index, step, rank, m, false);
      }
      sum += of_ranks;
    }
    return sum;
  }
  for (size_t i = 0; i < group.world_ranks().size(); ++i) {
    float own = 0;
    for (int m = 0; m < job.options().microbatches; ++m) {
      own += Contribution(parameter, index, step, group.world_ranks()[i], m, false);
    }
    sum = i == 0 ? own : sum + own;
  }
  return sum;
}

// Compares what this rank has of a reduced bucket, padding included; returns how many elements
// differ.
int64_t CountWrongGradients(TrainingJob& job, int bucket, int64_t step) {
  const Bucket& of = job.layout().buckets[static_cast<size_t>(bucket)];
  std::vector<float> wanted(static_cast<size_t>(of.num_elements));
  for (const BucketSlice& slice : job.layout().buckets[static_cast<size_t>(bucket)].slices) {
    const Parameter& parameter = job.parameters()[slice.parameter];
    const int64_t first = RangeOf(parameter, parameter.slice).begin;
    for (int64_t i = 0; i < slice.count; ++i) {
      wanted[static_cast<size_t>(slice.offset + i)] =
          ReducedGradient(job, parameter, first + i, step);
    }
  }
  const bool whole = job.options().data_parallel.zero_level == 0;
  const TensorView found =
      whole ? job.storage().gradients(bucket) : job.storage().gradient_shard(bucket);
  const int64_t begin = whole ? 0 : of.shard_begin();
  int64_t wrong = 0;
  for (int64_t i = 0; i < found.num_elements(); ++i) {
    wrong += found.as<float>()[i] != wanted[static_cast<size_t>(begin + i)];
  }
  return wrong;
}

TEST(BlankGradients, AreZeroWhereNobodyWroteThem) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  BlankGradients blank(job.storage());
  for (int b = 0; b < static_cast<int>(job.layout().buckets.size()); ++b) {
    const TensorView& whole = job.storage().gradients(b);
    std::fill_n(whole.as<float>(), whole.num_elements(), 7.0f);  // what the step before left
    blank.Begin(b, whole, job.compute());
    bool writes = false;  // of the writers every other one contributes
    std::vector<float> wanted(static_cast<size_t>(whole.num_elements()));
    for (const BucketSlice& slice : job.layout().buckets[static_cast<size_t>(b)].slices) {
      if (!job.parameters()[slice.parameter].writes_gradient) {
        EXPECT_FALSE(blank.TakeBlank(slice.parameter));
        continue;
      }
      writes = !writes;
      if (!writes) continue;
      EXPECT_TRUE(blank.TakeBlank(slice.parameter));
      EXPECT_FALSE(blank.TakeBlank(slice.parameter)) << "the second time it adds";
      std::fill_n(wanted.begin() + slice.offset, slice.count, 7.0f);
    }
    blank.FillRest(b, whole, job.compute());
    EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), whole.as<float>())) << "bucket " << b;
  }
}

TEST(BucketReducer, ReducedGradientsEqualSumOfRanks) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    for (int zero_level : {0, 1, 2, 3}) {
      for (auto mode : {kernels::StreamMode::kInline, kernels::StreamMode::kQueue}) {
        SCOPED_TRACE(degrees.ToString() + " zero " + std::to_string(zero_level));
        TrainingJob job(TestWorld(), {.degrees = degrees,
                                      .data_parallel = {.zero_level = zero_level},
                                      .compute_mode = mode});
        for (int64_t step = 1; step <= 2; ++step) {
          ASSERT_TRUE(job.ReduceGradients(step).ok());
          job.Synchronize();
          for (size_t b = 0; b < job.layout().buckets.size(); ++b) {
            EXPECT_EQ(CountWrongGradients(job, static_cast<int>(b), step), 0)
                << job.layout().buckets[b].name << " in step " << step;
          }
        }
      }
    }
  }
}

// Runs three steps and returns all weights of this rank.
std::vector<std::vector<double>> Train(const JobOptions& options) {
  TrainingJob job(TestWorld(), options);
  job.Run(3);
  return job.Weights();
}

TEST(DataParallel, OverlapOnAndOffAreBitwiseEqual) {
  for (const MeshDegrees& degrees : ShardedJobDegrees(TestWorld().size())) {
    for (int zero_level : {0, 1, 2, 3}) {
      if (zero_level == 0 && degrees.shard > 0) continue;
      JobOptions options{.degrees = degrees, .data_parallel = {zero_level, /*overlap=*/true}};
      const auto with_overlap = Train(options);
      options.data_parallel.overlap = false;
      EXPECT_EQ(with_overlap, Train(options)) << NameOf(degrees, zero_level);
    }
  }
}

TEST(DataParallel, BucketSizeDoesNotChangeBits) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    for (int zero_level : {1, 3}) {
      JobOptions options{
          .degrees = degrees, .bucket_bytes = 1, .data_parallel = {.zero_level = zero_level}};
      const auto one_parameter_each = Train(options);
      for (int64_t bucket_bytes : {3000, 1 << 20}) {
        options.bucket_bytes = bucket_bytes;
        EXPECT_EQ(one_parameter_each, Train(options))
            << NameOf(degrees, zero_level) << " " << bucket_bytes;
      }
    }
  }
}

TEST(DataParallel, QueuedComputeStreamGivesTheSameBits) {
  using std::chrono::milliseconds;
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    for (int zero_level : {1, 2, 3}) {
      JobOptions options{
          .degrees = degrees, .data_parallel = {.zero_level = zero_level}, .max_norm = 1};
      const auto inline_weights = Train(options);
      options.compute_mode = kernels::StreamMode::kQueue;
      options.compute_delay = milliseconds(3);
      EXPECT_EQ(inline_weights, Train(options)) << NameOf(degrees, zero_level) << ", late compute";
      options.compute_delay = milliseconds(0);
      options.comm_delay = milliseconds(3);
      EXPECT_EQ(inline_weights, Train(options)) << NameOf(degrees, zero_level) << ", late comm";
    }
  }
}

// A rank whose backward ends in another order still makes the same calls.
TEST(DataParallel, RanksMayBeReadyInDifferentOrders) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    JobOptions options{.degrees = degrees, .bucket_bytes = 1};
    const auto weights = Train(options);
    options.forward_order = TestWorld().rank() % 2 == 0;
    EXPECT_EQ(weights, Train(options)) << degrees.ToString();
  }
}

TEST(DataParallel, TrainingMovesEveryWeight) {
  JobOptions options{.degrees = JobDegrees(TestWorld().size())[0]};
  TrainingJob job(TestWorld(), options);
  const auto before = job.Weights();
  job.Run(1);
  const auto after = job.Weights();
  for (size_t id = 0; id < after.size(); ++id) {
    for (size_t i = 0; i < after[id].size(); ++i) EXPECT_NE(before[id][i], after[id][i]);
  }
}

// Makes the weights that this rank does not update NaN, so that only a gather can bring them back,
// and holds up the communication stream, so that only a wait can make them seen.
void SpoilOthersWeights(TrainingJob& job) {
  for (size_t b = 0; b < job.layout().buckets.size(); ++b) {
    const Bucket& bucket = job.layout().buckets[b];
    const TensorView all = job.storage().weights(static_cast<int>(b));
    for (int64_t i = 0; i < bucket.num_elements; ++i) {
      const int64_t in_shard = i - bucket.shard_begin();
      const bool own = in_shard >= 0 && in_shard < bucket.shard_elements();
      if (!own) all.as<float>()[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  job.comm().Enqueue([] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); });
}

// What the compute stream finds in each weight; with `use`, after it asked for it.
std::vector<std::vector<double>> WeightsSeenByCompute(TrainingJob& job, bool use) {
  std::vector<std::vector<double>> seen(static_cast<size_t>(job.parameters().size()));
  for (ParameterId id = 0; id < job.parameters().size(); ++id) {
    if (use) job.hooks().Use(id, job.compute());
    job.compute().Enqueue([&job, &seen, id] {
      seen[static_cast<size_t>(id)] = kernels::Values(job.parameters()[id].weight);
    });
  }
  EXPECT_TRUE(job.compute().Synchronize().ok());
  return seen;
}

TEST(ParamGather, BringsAllWeightsBeforeTheyAreUsed) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    TrainingJob job(TestWorld(), {.degrees = degrees, .compute_mode = kernels::StreamMode::kQueue});
    const auto weights = job.Weights();
    SpoilOthersWeights(job);
    ASSERT_TRUE(job.gather().Start(job.compute()).ok());
    EXPECT_EQ(WeightsSeenByCompute(job, /*use=*/true), weights) << degrees.ToString();
  }
}

TEST(ParamGather, WithoutOverlapStartWaitsForAll) {
  for (const MeshDegrees& degrees : JobDegrees(TestWorld().size())) {
    TrainingJob job(TestWorld(), {.degrees = degrees,
                                  .data_parallel = {.zero_level = 1, .overlap = false},
                                  .compute_mode = kernels::StreamMode::kQueue});
    const auto weights = job.Weights();
    SpoilOthersWeights(job);
    ASSERT_TRUE(job.gather().Start(job.compute()).ok());
    EXPECT_EQ(WeightsSeenByCompute(job, /*use=*/false), weights) << degrees.ToString();
  }
}

TEST(BucketReducer, NamesTheParameterThatWasNeverReady) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  job.never_ready = 2;
  const absl::Status status = job.ReduceGradients(1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("layer0.linear"), absl::string_view::npos) << status;
  job.never_ready = -1;
  EXPECT_TRUE(job.comm().Synchronize().ok());
  EXPECT_TRUE(job.ReduceGradients(2).ok());
}

TEST(BucketReducer, ReadyTwiceIsAnErrorOfTheStream) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  ASSERT_TRUE(job.ReduceGradients(1).ok());
  job.hooks().Ready(5, job.compute());
  const absl::Status status = job.compute().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("layer1.linear"), absl::string_view::npos) << status;
}

TEST(BucketReducer, RefusesAnotherZeroLevelThanTheMemorys) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  const auto reducer =
      BucketReducer::Create(job.storage(), job.mesh(), {.zero_level = 2}, job.comm());
  EXPECT_EQ(reducer.status().code(), absl::StatusCode::kInvalidArgument);
}

// With the reductions held up for 30 ms, the time is the compute stream's exposed wait; nobody
// waits in a world of one, where nothing is sent.
TEST(BucketReducer, FinishBooksItsWaitAsExposed) {
  TrainingJob job(TestWorld(), {.degrees = JobDegrees(TestWorld().size())[0]});
  auto timeline = kernels::Timeline::Create(job.compute(), kNumTimeCategories);
  ASSERT_TRUE(timeline.ok());
  (*timeline)->Enter(kCompute);
  job.comm().Enqueue([] { std::this_thread::sleep_for(std::chrono::milliseconds(30)); });
  ASSERT_TRUE(job.ReduceGradients(1).ok());
  const auto times = (*timeline)->Collect();
  ASSERT_TRUE(times.ok());
  const int64_t exposed_ns = (*times)[kExposedDp];
  if (TestWorld().size() == 1) {
    EXPECT_LT(exposed_ns, 10'000'000);
  } else {
    EXPECT_GT(exposed_ns, 10'000'000);
  }
  EXPECT_GT((*times)[kCompute], 0);
  job.Synchronize();
}

}  // namespace
}  // namespace muster::parallel
