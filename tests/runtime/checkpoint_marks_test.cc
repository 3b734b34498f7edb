// What a run's ledger tells of its checkpoints, from training to the report.
#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/goodput/report.h"
#include "runtime/train/trainer.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

RunReport ReportOfSixSteps(const std::string& directory, const std::string& override) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";
  MUSTER_CHECK(LoadJob(
      path,
      {"goodput.peak=0.1", "log.progress=false", "train.sequence_length=32", "train.steps=6",
       "train.global_batch_sequences=4", "data.synthetic.tokens=8192", "evaluate.sequences=4",
       "log.tensorboard=false", "checkpoint.every_steps=2", override},
      /*world_size=*/1, &job, &problems))
      << Describe(problems, path);
  const std::unique_ptr<parallel::World> world = parallel::World::Alone();
  {
    const auto trainer = Trainer::Create(
        job, *world, {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    MUSTER_CHECK_OK(trainer.status());
    MUSTER_CHECK_OK((*trainer)->Run().status());
  }
  const absl::StatusOr<RunReport> report = ReportOf(directory);
  MUSTER_CHECK_OK(report.status());
  return *report;
}

TEST(CheckpointMarks, OfSavesThatTrainingWaitsForAreCountedAndTimed) {
  const ScratchDirectory scratch;
  const RunReport report = ReportOfSixSteps(scratch.path(), "checkpoint.asynchronous=false");
  EXPECT_EQ(report.commits, 3);
  ASSERT_TRUE(report.mean_seconds_to_commit && report.mean_stall_seconds_of_checkpoint);
  EXPECT_LE(*report.mean_seconds_to_commit, *report.mean_stall_seconds_of_checkpoint);
  EXPECT_TRUE(FailureModelOf(report).ok());
}

}  // namespace
}  // namespace muster::runtime
