// Planned faults through the trainer: what guards find, whom they name, and what they leave
// untouched.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/input/batch_loader.h"
#include "runtime/job/run_directory.h"
#include "runtime/train/roll_back.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/guarded_run.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

TEST(RunGuard, ANanInOneGradientOfOneRankSkipsTheStepOnAllAndHappensOnce) {
  GuardedRun run({"faults.plan=nan rank=" + Last() + " step=2"});
  EXPECT_FALSE(run.Step(1).skipped);
  const uint64_t before = run.WeightsHash();
  EXPECT_TRUE(run.Step(2).skipped);
  EXPECT_EQ(run.WeightsHash(), before);
  EXPECT_FALSE(run.Step(3).skipped);
  EXPECT_NE(run.WeightsHash(), before);
  run.Start();
  for (int64_t step = 1; step <= 3; ++step) EXPECT_FALSE(run.Step(step).skipped) << step;
}

// What rank 0 says of a step that is skipped; "" on other ranks.
class SaidOfSkips {
 public:
  SaidOfSkips() { ::testing::internal::CaptureStderr(); }
  std::string Take() {
    const std::string all = ::testing::internal::GetCapturedStderr();
    std::fputs(all.c_str(), stderr);
    std::string said;
    std::istringstream lines(all);
    for (std::string line; std::getline(lines, line);) {
      if (line.find(" is skipped: ") != std::string::npos) said += line + "\n";
    }
    return said;
  }
};

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(RunGuard, TheRankAndTensorOfANanAreNamedAtEveryZeroLevel) {
  const std::string tensor = "layers.1.moe.router.weight";
  for (const std::string level : {"0", "1", "2", "3"}) {
    SCOPED_TRACE("zero.level " + level);
    GuardedRun run({"zero.level=" + level, "train.global_batch_sequences=24",
                    "schedule.microbatches=2",
                    "faults.plan=nan rank=" + Last() + " step=2 tensor=" + tensor});
    (void)run.Step(1);
    SaidOfSkips skips;
    EXPECT_TRUE(run.Step(2).skipped);
    EXPECT_FALSE(run.Step(3).skipped);
    const std::string said = skips.Take();
    if (TestWorld().rank() != 0) continue;
    EXPECT_NE(said.find("rank " + Last() + " computed it: " + tensor + ", element 0"),
              std::string::npos)
        << said;
    EXPECT_EQ(CountOf(said, "computed it"), 1u) << said;
  }
}

TEST(RunGuard, ANanThatDoesNotComeAgainIsSaidToBeOfTheComputation) {
  if (TestWorld().size() == 1) return;  // its rank is known without a second run
  GuardedRun run({"zero.level=0", "faults.plan=nan passes=1 rank=" + Last() + " step=2"});
  (void)run.Step(1);
  SaidOfSkips skips;
  EXPECT_TRUE(run.Step(2).skipped);
  const std::string said = skips.Take();
  if (TestWorld().rank() != 0) return;
  EXPECT_NE(said.find("a computation that went wrong once"), std::string::npos) << said;
}

// A token that in steps 2 to 4 only the last rank meets, and only in step 2, has an embedding that
// is not finite. Read late, its step's gradient is gone by then, and the next one's is made again.
TEST(RunGuard, TheRankOfANanIsNamedWhereFactsAreReadLateAndNothingElseChanges) {
  const int ranks = TestWorld().size();
  std::vector<uint64_t> hashes;
  for (const auto mode : {kernels::StreamMode::kInline, kernels::StreamMode::kQueue}) {
    GuardedRun run({"zero.level=0", "model.tied_embeddings=false"}, /*with_checkpoints=*/false,
                   mode);
    const auto loader = BatchLoader::Create(run.job(), Split::kTrain, /*context_rank=*/0);
    ASSERT_TRUE(loader.ok()) << loader.status();
    std::map<int32_t, int> wanted, others;
    for (int64_t step = 2; step <= 4; ++step) {
      for (int rank = 0; rank < ranks; ++rank) {
        HostBatch batch;
        MUSTER_CHECK_OK((*loader)->Load(step, rank, &batch));
        auto& met = step == 2 && rank == ranks - 1 ? wanted : others;
        for (const int32_t token : batch.tokens) ++met[token];
      }
    }
    const auto poisoned = std::find_if(wanted.begin(), wanted.end(), [&](const auto& each) {
      return !others.contains(each.first);
    });
    ASSERT_NE(poisoned, wanted.end());
    ASSERT_TRUE(run.trainer().Step(1).ok());
    const TrainingState& state = run.trainer().state();
    const auto table = std::find_if(
        state.parameters->begin(), state.parameters->end(),
        [](const parallel::Parameter& each) { return each.global_name == "embedding.weight"; });
    ASSERT_NE(table, state.parameters->end());
    float* row = table->weight.as<float>() + poisoned->first * table->weight.shape[1];
    state.compute().Enqueue([row] { row[0] = std::numeric_limits<float>::infinity(); });
    SaidOfSkips skips;
    for (int64_t step = 2; step <= 4; ++step) ASSERT_TRUE(run.trainer().Step(step).ok());
    ASSERT_TRUE(run.trainer().Settle().ok());
    const std::string said = skips.Take();
    hashes.push_back(run.StateHash());
    if (TestWorld().rank() != 0) continue;
    EXPECT_EQ(CountOf(said, "is skipped"), 1u) << said;
    EXPECT_EQ(CountOf(said, "rank " + Last() + " computed it"), 1u) << said;
    EXPECT_EQ(CountOf(said, "computed it"), 1u) << said;
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST(RunGuard, SkipsInARowEndTheAttemptToGoBack) {
  GuardedRun run({"safety.max_consecutive_skips=2",
                  "faults.plan=nan step=1,nan rank=" + Last() + " step=2,nan step=4"});
  EXPECT_TRUE(run.Step(1).skipped);
  const absl::Status ended = run.trainer().Step(2);
  EXPECT_TRUE(IsRollBack(ended)) << ended;
  EXPECT_NE(ended.message().find("no update in the last 2 steps"), std::string::npos) << ended;
}

TEST(RunGuard, AStepWhoseLossSpikesMakesNoUpdateIfSpikesAreSkipped) {
  // Every loss is above half the mean of those before: from step 3 on each one is a spike.
  GuardedRun run({"safety.loss_spike_factor=0.5", "safety.loss_window=2",
                  "safety.loss_spike_action=SKIP", "safety.max_consecutive_skips=2"});
  EXPECT_FALSE(run.Step(1).skipped);
  EXPECT_FALSE(run.Step(2).skipped);
  const uint64_t before = run.WeightsHash();
  EXPECT_TRUE(run.Step(3).skipped);
  EXPECT_EQ(run.WeightsHash(), before);
  EXPECT_TRUE(IsRollBack(run.trainer().Step(4)));
}

TEST(RunGuard, ALossSpikeGoesBackIfSpikesAreNotSkipped) {
  GuardedRun run({"safety.loss_spike_factor=0.5", "safety.loss_window=2"});
  (void)run.Step(1);
  (void)run.Step(2);
  const absl::Status ended = run.trainer().Step(3);
  EXPECT_TRUE(IsRollBack(ended)) << ended;
  EXPECT_NE(ended.message().find("safety.loss_spike_factor"), std::string::npos) << ended;
}

TEST(RunGuard, SpikesThatAreSkippedLeaveStepsWithoutOneAsTheyAre) {
  const std::vector<std::string> off = {},
                                 on = {"safety.loss_spike_factor=100", "safety.loss_window=1",
                                       "safety.loss_spike_action=SKIP"};
  std::vector<uint64_t> hashes;
  for (const auto& overrides : {off, on}) {
    GuardedRun run(overrides);
    for (int64_t step = 1; step <= 3; ++step) EXPECT_FALSE(run.Step(step).skipped);
    hashes.push_back(run.WeightsHash());
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST(Agreement, OtherConfigsAreNamedFieldByFieldWithinFiveSeconds) {
  parallel::World& world = TestWorld();
  if (world.size() == 1) return;
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
  std::vector<std::string> overrides = {"train.global_batch_sequences=24",
                                        "schedule.microbatches=1"};
  if (world.rank() == 1) overrides.push_back("train.seed=7");
  if (world.rank() == world.size() - 1) overrides.push_back("precision.compute=bf16");
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, world.size(), &job, &problems)) << Describe(problems, path);
  const int64_t begin_ns = kernels::MonotonicNs();
  const absl::Status refused = CheckAgreement(job, "one version", world);
  EXPECT_LT(kernels::MonotonicNs() - begin_ns, 5'000'000'000);
  const std::string said(refused.message());
  EXPECT_NE(said.find("train.seed: 1234 on rank 0"), std::string::npos) << said;
  EXPECT_NE(said.find("7 on rank 1"), std::string::npos) << said;
  EXPECT_NE(said.find("precision.compute: bf16 on rank " + Last()), std::string::npos) << said;
  EXPECT_EQ(said.find("(build)"), std::string::npos) << said;
}

TEST(Agreement, APlannedOtherBuildIsNamed) {
  parallel::World& world = TestWorld();
  if (world.size() == 1) return;
  ResolvedJob job;
  job.job.mutable_faults()->add_plan("build rank=1");
  const absl::Status refused = CheckAgreement(job, "one version", world);
  EXPECT_NE(refused.message().find("(build):"), std::string::npos) << refused;
  EXPECT_NE(refused.message().find("(planned fault) on rank 1"), std::string::npos) << refused;
}

TEST(RunGuard, AnErrorOfTheDeviceEndsTheAttempt) {
  if (TestWorld().size() > 1) return;  // others would wait for the rank: end_to_end/faults_test.sh
  GuardedRun run({"faults.plan=device_error step=2 at=backward"});
  (void)run.Step(1);
  const absl::Status ended = run.trainer().Step(2);
  EXPECT_NE(ended.message().find("the device fails (planned fault)"), std::string::npos) << ended;
}

}  // namespace
}  // namespace muster::runtime
