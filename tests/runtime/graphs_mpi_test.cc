// Training with passes that are recorded and launched (schedule.graphs) against plain training: the
// same bits in every step, with an evaluation between the steps, on 1 to 4 ranks.
#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using kernels::StreamMode;

constexpr int64_t kSteps = 6;

TrainingRun Run(const std::vector<std::string>& overrides, bool graphs, StreamMode mode) {
  std::vector<std::string> all = {"train.global_batch_sequences=24", "train.sequence_length=32",
                                  "communication.bucket_megabytes=0.05", "evaluate.sequences=8",
                                  std::string("schedule.graphs=") + (graphs ? "true" : "false")};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return Train(parallel::TestWorld(), "tiny-dense.textproto", all, kSteps, mode);
}

void ExpectEqualBits(const std::vector<std::string>& overrides) {
  for (const StreamMode mode : {StreamMode::kInline, StreamMode::kQueue}) {
    const TrainingRun plain = Run(overrides, false, mode), launched = Run(overrides, true, mode);
    EXPECT_EQ(launched.loss_bits, plain.loss_bits);
    EXPECT_EQ(launched.grad_norm_bits, plain.grad_norm_bits);
    EXPECT_EQ(launched.validation_loss, plain.validation_loss);
    EXPECT_EQ(launched.loss_bits.size(), static_cast<size_t>(kSteps));
  }
}

TEST(Graphs, GiveTheBitsOfPlainPasses) { ExpectEqualBits({"schedule.microbatches=2"}); }

TEST(Graphs, GiveTheBitsOfPlainPassesInOneMicrobatch) {
  ExpectEqualBits({"schedule.microbatches=1", "zero.level=0"});
}

TEST(Graphs, GiveTheBitsOfPlainPassesWithRecomputation) {
  ExpectEqualBits({"schedule.microbatches=2", "recompute.block=true"});
}

TEST(Graphs, GiveTheBitsOfPlainPassesWithoutOverlapAndWithTiedEmbeddings) {
  ExpectEqualBits({"schedule.microbatches=3", "train.global_batch_sequences=36",
                   "communication.overlap=false", "model.tied_embeddings=true",
                   "precision.compute=bf16"});
}

TEST(Graphs, LaunchEveryPassFromTheThirdStepOn) {
  const auto directory = SharedTemporaryDirectory(parallel::TestWorld());
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-dense.textproto";
  MUSTER_CHECK(LoadJob(
      path,
      {"train.global_batch_sequences=24", "train.sequence_length=32", "train.steps=6",
       "goodput.peak=0.1", "log.progress=false", "schedule.microbatches=2", "schedule.graphs=true"},
      parallel::TestWorld().size(), &job, &problems))
      << Describe(problems, path);
  auto trainer = Trainer::Create(job, parallel::TestWorld(),
                                 {.run_directory = directory, .process_start_ns = 1});
  MUSTER_CHECK_OK(trainer.status());
  for (int64_t step = 1; step <= 5; ++step) {
    MUSTER_CHECK_OK((*trainer)->Step(step));
    const int64_t launched = std::max<int64_t>(0, step - 2) * 2 * 2;  // both passes, 2 microbatches
    EXPECT_EQ((*trainer)->state().passes->num_launched(), launched) << "step " << step;
  }
  MUSTER_CHECK_OK((*trainer)->Settle());
}

}  // namespace
}  // namespace muster::runtime
