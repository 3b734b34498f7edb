// Planned faults through the trainer: what guards find, whom they name, and what they leave
// untouched.
#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
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
