// A pipeline trains what one rank trains: losses over 20 steps and every gradient tensor, whatever
// the stages, the schedule and the other axes.
#include <gtest/gtest.h>

#include "tests/support/mpi_main.h"
#include "tests/support/runtime/compare_runs.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using Settings = std::vector<std::string>;

constexpr int64_t kSteps = 20;

Settings Join(Settings a, const Settings& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Small enough that eight ranks on two cores take seconds.
const Settings kSmall = {"model.hidden=32",
                         "model.ffn_hidden=64",
                         "model.layers=4",
                         "model.heads=2",
                         "model.kv_heads=2",
                         "train.global_batch_sequences=16",
                         "train.sequence_length=16",
                         "evaluate.sequences=24",
                         "schedule.microbatches=4",
                         "optimizer.learning_rate=1e-3",
                         "communication.bucket_megabytes=0.01"};

bool Has(int ranks) { return parallel::TestWorld().size() == ranks; }

class PipelineParity : public ::testing::Test {
 protected:
  void ExpectEqualToOneRank(const std::string& config, const Settings& layout,
                            const Settings& model = {}) {
    const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
    const TrainingRun one = Train(*alone, config, Join(kSmall, model), kSteps);
    ExpectWithinRounding(
        Train(parallel::TestWorld(), config, Join(Join(kSmall, model), layout), kSteps), one);
  }
};

TEST_F(PipelineParity, StagesOnAllRanksEqualOneRank) {
  const std::string pp = "mesh.pp=" + std::to_string(parallel::TestWorld().size());
  ExpectEqualToOneRank("tiny-dense.textproto", {pp});
}

TEST_F(PipelineParity, TiedEmbeddingsEqualOneRank) {
  const std::string pp = "mesh.pp=" + std::to_string(parallel::TestWorld().size());
  for (const std::string zero : {"zero.level=0", "zero.level=1"}) {
    SCOPED_TRACE(zero);
    ExpectEqualToOneRank("tiny-dense.textproto", {pp, zero}, {"model.tied_embeddings=true"});
  }
}

TEST_F(PipelineParity, WithDataParallelEqualsOneRank) {
  if (!Has(4)) GTEST_SKIP() << "pp2 x dp2 wants 4 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=2"}, {"model.tied_embeddings=true"});
}

TEST_F(PipelineParity, WithTensorParallelEqualsOneRank) {
  if (!Has(4)) GTEST_SKIP() << "pp2 x tp2 wants 4 ranks";
  for (const std::string tied : {"false", "true"}) {
    SCOPED_TRACE(tied);
    ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=2", "mesh.tp=2"},
                         {"model.tied_embeddings=" + tied});
  }
}

TEST_F(PipelineParity, UnevenStagesEqualOneRank) {
  if (!Has(2)) GTEST_SKIP() << "two stages want 2 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=2", "schedule.layers_per_stage=1,3"});
}

TEST_F(PipelineParity, MoeEqualsOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "pp2 x ep2 wants 2 or 4 ranks";
  ExpectEqualToOneRank("tiny-moe.textproto",
                       {"mesh.pp=2", "mesh.ep=" + std::to_string(Has(4) ? 2 : 1)},
                       {"model.moe.expert_ffn_hidden=32", "model.moe.first_dense_layers=1",
                        "model.moe.bias_update_rate=0.01"});
}

TEST_F(PipelineParity, QueuedComputeStreamIsBitwiseEqualToInline) {
  const Settings layout = Join(kSmall, {"mesh.pp=" + std::to_string(parallel::TestWorld().size())});
  const TrainingRun a = Train(parallel::TestWorld(), "tiny-dense.textproto", layout, 5);
  const TrainingRun b =
      Train(parallel::TestWorld(), "tiny-dense.textproto", layout, 5, kernels::StreamMode::kQueue);
  EXPECT_EQ(a.loss_bits, b.loss_bits);
  EXPECT_EQ(a.grad_norm_bits, b.grad_norm_bits);
}

}  // namespace
}  // namespace muster::runtime
