// A pipeline trains what one rank trains: losses over 20 steps and every gradient tensor, whatever
// the stages, the schedule and the other axes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/parity_errors.h"
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
    const TrainingRun many =
        Train(parallel::TestWorld(), config, Join(Join(kSmall, model), layout), kSteps);
    runtime::ExpectEqualToOneRank(one, many, parallel::TestWorld());
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
  for (const std::string kind : {"one_f_one_b", "zb_h1", "zb_v"}) {
    for (const std::string zero : {"0", "1", "2", "3"}) {
      SCOPED_TRACE(kind + ", ZeRO " + zero);
      ExpectEqualToOneRank("tiny-dense.textproto",
                           {"mesh.pp=2", "schedule.kind=" + kind, "zero.level=" + zero},
                           {"model.tied_embeddings=true"});
    }
  }
}

TEST_F(PipelineParity, WithTensorParallelEqualsOneRank) {
  if (!Has(4)) GTEST_SKIP() << "pp2 x tp2 wants 4 ranks";
  for (const std::string tied : {"false", "true"}) {
    SCOPED_TRACE(tied);
    ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=2", "mesh.tp=2"},
                         {"model.tied_embeddings=" + tied});
  }
}

TEST_F(PipelineParity, WithContextParallelEqualsOneRank) {
  if (!Has(4)) GTEST_SKIP() << "pp2 x cp2 wants 4 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=2", "mesh.cp=2"});
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

const char* const kSchedules[] = {"one_f_one_b", "interleaved_1f1b", "zb_h1", "zb_v", "dualpipev"};

// Microbatches of one sequence through eight layers: enough for four ranks of two stages, and a
// multiple of the ranks.
Settings ManyStages() {
  const std::string batch = Has(3) ? "9" : "8";
  return {"model.layers=8", "schedule.microbatches=" + batch,
          "train.global_batch_sequences=" + batch};
}

TEST_F(PipelineParity, EveryScheduleEqualsOneRankAndTheOthersToTheBit) {
  const Settings base =
      Join(Join(kSmall, ManyStages()), {"mesh.pp=" + std::to_string(parallel::TestWorld().size())});
  const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
  const TrainingRun one = Train(*alone, "tiny-dense.textproto", Join(kSmall, ManyStages()), kSteps);
  TrainingRun first;
  for (const std::string kind : kSchedules) {
    SCOPED_TRACE(kind);
    const TrainingRun run = Train(parallel::TestWorld(), "tiny-dense.textproto",
                                  Join(base, {"schedule.kind=" + kind}), kSteps);
    runtime::ExpectEqualToOneRank(one, run, parallel::TestWorld());
    // Microbatches are taken in the same order, so losses and updates are the same bits; the
    // gradient norm is summed over other parts, which rounds the last of its digits.
    if (kind == kSchedules[0]) first = run;
    EXPECT_EQ(run.loss_bits, first.loss_bits);
  }
}

TEST_F(PipelineParity, SchedulesOnTheSameStagesAreBitwiseEqual) {
  const Settings base =
      Join(Join(kSmall, ManyStages()), {"mesh.pp=" + std::to_string(parallel::TestWorld().size())});
  const auto train = [&](const std::string& kind) {
    return Train(parallel::TestWorld(), "tiny-dense.textproto",
                 Join(base, {"schedule.kind=" + kind}), 5);
  };
  for (const auto& [a, b] : {std::pair("one_f_one_b", "zb_h1"), std::pair("zb_v", "dualpipev")}) {
    const TrainingRun one = train(a), other = train(b);
    EXPECT_EQ(one.loss_bits, other.loss_bits) << a << " and " << b;
    EXPECT_EQ(one.grad_norm_bits, other.grad_norm_bits) << a << " and " << b;
    ASSERT_EQ(one.first_gradients.size(), other.first_gradients.size());
    for (size_t i = 0; i < one.first_gradients.size(); ++i) {
      EXPECT_EQ(one.first_gradients[i].values, other.first_gradients[i].values)
          << one.first_gradients[i].global_name;
    }
  }
}

TEST_F(PipelineParity, EveryScheduleTrainsMoeWithDataParallelRanks) {
  if (!Has(4)) GTEST_SKIP() << "pp2 x dp2 x ep2 wants 4 ranks";
  const Settings moe = {"model.moe.expert_ffn_hidden=32", "schedule.microbatches=4",
                        "train.global_batch_sequences=8", "model.tied_embeddings=true"};
  const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
  const TrainingRun one = Train(*alone, "tiny-moe.textproto", Join(kSmall, moe), kSteps);
  for (const std::string kind : kSchedules) {
    SCOPED_TRACE(kind);
    const TrainingRun many =
        Train(parallel::TestWorld(), "tiny-moe.textproto",
              Join(Join(kSmall, moe), {"mesh.pp=2", "mesh.ep=2", "schedule.kind=" + kind}), kSteps);
    runtime::ExpectEqualToOneRank(one, many, parallel::TestWorld());
  }
}

TEST_F(PipelineParity, ListsOfAFileAreRun) {
  if (!Has(2)) GTEST_SKIP() << "the file has lists for 2 ranks";
  const std::string directory = SharedTemporaryDirectory(parallel::TestWorld());
  const std::string path = directory + "/lists.txt";
  // All forwards, then all backwards, the later half of them apart.
  if (parallel::TestWorld().rank() == 0) {
    std::ofstream(path) << "# GPipe\n"
                           "0: F0.0 F0.1 F0.2 F0.3 I0.0 W0.0 I0.1 W0.1 I0.2 I0.3 W0.2 W0.3\n"
                           "1: F1.0 F1.1 F1.2 F1.3 I1.0 I1.1 W1.0 I1.2 W1.1 W1.2 I1.3 W1.3\n";
  }
  MUSTER_CHECK_OK(parallel::TestWorld().GatherText("written").status());
  ExpectEqualToOneRank("tiny-dense.textproto",
                       {"mesh.pp=2", "schedule.kind=from_file", "schedule.file=" + path});
  MUSTER_CHECK_OK(parallel::TestWorld().GatherText("read").status());
  if (parallel::TestWorld().rank() == 0) std::filesystem::remove_all(directory);
}

TEST_F(PipelineParity, OnEightRanksMoeEqualsOneRank) {
  if (!Has(8)) GTEST_SKIP() << "pp2 x dp4 x ep2 wants 8 ranks";
  for (const std::string kind : kSchedules) {
    SCOPED_TRACE(kind);
    ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.pp=2", "mesh.ep=2", "schedule.kind=" + kind},
                         {"model.moe.expert_ffn_hidden=32"});
  }
}

TEST_F(PipelineParity, OnEightRanksStagesOfOneLayerEqualOneRank) {
  if (!Has(8)) GTEST_SKIP() << "pp8 wants 8 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.pp=8", "schedule.kind=zb_h1"},
                       {"model.layers=8", "schedule.microbatches=16"});
}

TEST_F(PipelineParity, RecomputedStagesAreBitwiseEqual) {
  const Settings base =
      Join(Join(kSmall, ManyStages()), {"mesh.pp=" + std::to_string(parallel::TestWorld().size())});
  for (const std::string kind : {"one_f_one_b", "zb_v"}) {
    const auto train = [&](const std::string& recompute) {
      return Train(parallel::TestWorld(), "tiny-dense.textproto",
                   Join(base, {"schedule.kind=" + kind, "recompute.block=" + recompute}), 3);
    };
    EXPECT_EQ(train("true").loss_bits, train("false").loss_bits) << kind;
  }
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
