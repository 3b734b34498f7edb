// N ranks train what one rank trains: losses over 20 steps and every gradient tensor. Here stand
// the models and options that the parity matrix (tests/parity) has not, on 1 to 4 ranks. The
// one-rank reference runs in the same process, on a world of one.
#include <gtest/gtest.h>

#include <map>

#include "tests/support/mpi_main.h"
#include "tests/support/runtime/parity_errors.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

constexpr int64_t kSteps = 20;

const std::vector<std::string> kSmall = {
    "train.global_batch_sequences=12", "train.sequence_length=32", "schedule.microbatches=1",
    "optimizer.learning_rate=1e-3", "communication.bucket_megabytes=0.05"};

std::vector<std::string> With(std::vector<std::string> base, std::vector<std::string> more) {
  base.insert(base.end(), more.begin(), more.end());
  return base;
}

// What one rank trains; kept, as many layouts are held against it.
const TrainingRun& OneRank(const std::string& config, const std::vector<std::string>& overrides) {
  static auto& runs = *new std::map<std::pair<std::string, std::vector<std::string>>, TrainingRun>;
  const auto key = std::pair(config, overrides);
  if (!runs.contains(key)) {
    const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
    runs.emplace(key, Train(*alone, config, overrides, kSteps));
  }
  return runs.at(key);
}

void ExpectEqualToOneRank(const std::string& config, const std::vector<std::string>& layout,
                          const std::vector<std::string>& batch = {}) {
  const TrainingRun& one = OneRank(config, With(kSmall, batch));
  const TrainingRun many =
      Train(parallel::TestWorld(), config, With(With(kSmall, batch), layout), kSteps);
  runtime::ExpectEqualToOneRank(one, many, parallel::TestWorld());
}

bool Has(int ranks) { return parallel::TestWorld().size() == ranks; }

TEST(Parity, DataParallelDenseEqualsOneRank) { ExpectEqualToOneRank("tiny-dense.textproto", {}); }

TEST(Parity, DataParallelMoeEqualsOneRank) { ExpectEqualToOneRank("tiny-moe.textproto", {}); }

// LayerNorm, GELU, biases, learned positions, one table for both ends.
const std::vector<std::string> kGpt2 = {"model.norm=LAYER_NORM",  "model.activation=GELU",
                                        "model.position=LEARNED", "model.bias=true",
                                        "model.kv_heads=4",       "model.tied_embeddings=true",
                                        "model.layers=2"};
const std::string kNoSequence = "mesh.sequence_parallel=false";

TEST(Parity, TensorParallelGroupedQueriesEqualOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "tp2 wants 2 or 4 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2"});
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2", kNoSequence});
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2", "zero.level=0"});
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2", "recompute.block=true"});
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2", "recompute.attention=true",
                                                "recompute.norm=true", "recompute.mlp=true"});
}

TEST(Parity, TensorParallelWithBiasesAndTiedTableEqualsOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "wants 2 or 4 ranks";
  const std::string tp = "mesh.tp=" + std::to_string(parallel::TestWorld().size());
  ExpectEqualToOneRank("tiny-dense.textproto", {tp}, kGpt2);
  ExpectEqualToOneRank("tiny-dense.textproto", {tp, kNoSequence}, kGpt2);
}

TEST(Parity, VocabularyNeedNotDivide) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "wants 2 or 4 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.tp=2"},
                       {"model.vocab_size=251", "model.layers=2"});
}

const std::string kAllGather = "mesh.context_exchange=ALL_GATHER";

// Learned positions, so that both ways of placing tokens are held against one rank.
TEST(Parity, ContextParallelDenseEqualsOneRank) {
  const int size = parallel::TestWorld().size();
  if (size == 1) GTEST_SKIP() << "cp wants 2 to 4 ranks";
  const std::vector<std::string> length = {"train.sequence_length=48"};  // 2 cp = 4, 6 or 8
  const std::string cp = "mesh.cp=" + std::to_string(size);
  ExpectEqualToOneRank("tiny-dense.textproto", {cp}, length);
  ExpectEqualToOneRank("tiny-dense.textproto", {cp, kAllGather}, length);
  ExpectEqualToOneRank("tiny-dense.textproto",
                       {cp, "zero.level=0", "schedule.microbatches=2", "recompute.attention=true"},
                       {"train.sequence_length=48", "model.position=LEARNED"});
}

TEST(Parity, ContextParallelWithDataParallelEqualsOneRank) {
  if (!Has(4)) GTEST_SKIP() << "cp2 x dp2 wants 4 ranks";
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.cp=2"});
  ExpectEqualToOneRank("tiny-dense.textproto", {"mesh.cp=2", kAllGather, "zero.level=3"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.cp=2", "mesh.ep=2"});
  ExpectEqualToOneRank("tiny-moe.textproto",
                       {"mesh.cp=2", "mesh.ep=4", kAllGather, "zero.level=2"});
}

// A sequence's auxiliary loss counts choices of all its tokens, wherever they are; a batch's too.
TEST(Parity, ContextParallelMoeEqualsOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "wants 2 or 4 ranks";
  const std::string size = std::to_string(parallel::TestWorld().size());
  const std::vector<std::string> layout = {"mesh.cp=" + size, "mesh.ep=" + size};
  for (const std::string level : {"SEQUENCE", "BATCH"}) {
    ExpectEqualToOneRank(
        "tiny-moe.textproto", layout,
        {"model.moe.aux_loss=0.1", "model.moe.aux_level=" + level, "model.moe.z_loss=0.01"});
  }
}

const std::vector<std::string> kDeepSeek = {"model.moe.shared_experts=2",
                                            "model.moe.score=SIGMOID",
                                            "model.layers=3",
                                            "model.moe.bias_update_rate=0.01",
                                            "model.moe.groups=4",
                                            "model.moe.group_top_k=2",
                                            "model.moe.first_dense_layers=1",
                                            "model.moe.expert_ffn_hidden=32"};

TEST(Parity, TensorParallelMoeEqualsOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "tp2 wants 2 or 4 ranks";
  const std::string ep = "mesh.ep=" + std::to_string(parallel::TestWorld().size());
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", "mesh.ep=2"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", ep, "recompute.moe=true"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", ep}, kDeepSeek);
}

// Three sequences in a microbatch: the second one lies on both ranks.
TEST(Parity, LossesOfSequencesThatTensorRanksShareEqualOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "tp2 wants 2 or 4 ranks";
  const std::string microbatches = Has(2) ? "schedule.microbatches=4" : "schedule.microbatches=2";
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", "mesh.ep=2", microbatches},
                       {"model.moe.aux_loss=0.5"});
}

TEST(Parity, ExpertTensorParallelEqualsOneRank) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "etp2 wants 2 or 4 ranks";
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.etp=2"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", "mesh.etp=2"}, kDeepSeek);
  if (!Has(4)) return;
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.ep=2", "mesh.etp=2"});
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", "mesh.ep=2", "mesh.etp=2"}, kDeepSeek);
  ExpectEqualToOneRank("tiny-moe.textproto", {"mesh.tp=2", "mesh.cp=2", "mesh.ep=2", "mesh.etp=2",
                                              "schedule.microbatches=4"});
}

TEST(Parity, MicrobatchesAndZeroLevelDoNotChangeTheLoss) {
  ExpectEqualToOneRank("tiny-moe.textproto", {"zero.level=0", "schedule.microbatches=2"},
                       {"train.global_batch_sequences=24"});
}

// From level 2 on gradients are added up over ranks before they are over microbatches.
TEST(Parity, ShardedGradientsAndWeightsEqualOneRank) {
  for (const std::string level : {"zero.level=2", "zero.level=3"}) {
    SCOPED_TRACE(level);
    ExpectEqualToOneRank("tiny-dense.textproto",
                         {level, "schedule.microbatches=2", "model.tied_embeddings=true"},
                         {"train.global_batch_sequences=24", "model.tied_embeddings=true"});
  }
}

TEST(Parity, BlocksThatShardAndReplicateEqualOneRank) {
  if (!Has(4)) GTEST_SKIP() << "two blocks of two want 4 ranks";
  for (const std::string ep : {"mesh.ep=1", "mesh.ep=2"}) {
    SCOPED_TRACE(ep);
    ExpectEqualToOneRank("tiny-moe.textproto", {"zero.level=3", "zero.shard_ranks=2", ep});
  }
}

TEST(Parity, ShardedWeightsWorkWithTensorAndContextParallelism) {
  if (!Has(4)) GTEST_SKIP() << "wants 4 ranks";
  for (const std::string axis : {"mesh.tp=2", "mesh.cp=2"}) {
    SCOPED_TRACE(axis);
    ExpectEqualToOneRank("tiny-dense.textproto", {axis, "zero.level=3", "zero.shard_ranks=2"});
  }
}

void ExpectSameBits(const TrainingRun& a, const TrainingRun& b) {
  EXPECT_EQ(a.loss_bits, b.loss_bits);
  EXPECT_EQ(a.grad_norm_bits, b.grad_norm_bits);
  ASSERT_EQ(a.first_gradients.size(), b.first_gradients.size());
  for (size_t i = 0; i < a.first_gradients.size(); ++i) {
    EXPECT_EQ(a.first_gradients[i].values, b.first_gradients[i].values)
        << a.first_gradients[i].global_name;
  }
}

std::vector<std::string> BestExpertLayout() {
  const int size = parallel::TestWorld().size();
  return {"mesh.ep=" + std::to_string(size == 4 ? 2 : size == 2 ? 2 : 1)};
}

TEST(Parity, TwoRunsAreBitwiseEqual) {
  const auto layout = With(kSmall, BestExpertLayout());
  ExpectSameBits(Train(parallel::TestWorld(), "tiny-moe.textproto", layout, kSteps),
                 Train(parallel::TestWorld(), "tiny-moe.textproto", layout, kSteps));
}

TEST(Parity, OverlapOnAndOffAreBitwiseEqual) {
  const auto layout = With(kSmall, BestExpertLayout());
  ExpectSameBits(Train(parallel::TestWorld(), "tiny-moe.textproto",
                       With(layout, {"communication.overlap=true"}), kSteps),
                 Train(parallel::TestWorld(), "tiny-moe.textproto",
                       With(layout, {"communication.overlap=false"}), kSteps));
}

// With one microbatch each bucket is reduced once, by the same sums at every level.
TEST(Parity, ZeroLevelsAreBitwiseEqualInOneMicrobatch) {
  const auto layout = With(kSmall, BestExpertLayout());
  const TrainingRun one = Train(parallel::TestWorld(), "tiny-moe.textproto", layout, kSteps);
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"zero.level=2"},
                                             {"zero.level=3"},
                                             {"zero.level=2", "communication.overlap=false"},
                                             {"zero.level=3", "communication.overlap=false"},
                                             {"zero.level=3", "recompute.block=true"}}) {
    SCOPED_TRACE(more[0] + " " + more.back());
    ExpectSameBits(Train(parallel::TestWorld(), "tiny-moe.textproto", With(layout, more), kSteps),
                   one);
  }
}

TEST(Parity, RecomputationKeepsBitsWithTensorAndContextParallelism) {
  if (!Has(2) && !Has(4)) GTEST_SKIP() << "wants 2 or 4 ranks";
  for (const std::string axis : {"mesh.tp=2", "mesh.cp=2"}) {
    SCOPED_TRACE(axis);
    const auto layout = With(kSmall, {axis});
    const TrainingRun kept = Train(parallel::TestWorld(), "tiny-dense.textproto", layout, 3);
    for (const std::string module : {"attention", "mlp", "block"}) {
      ExpectSameBits(Train(parallel::TestWorld(), "tiny-dense.textproto",
                           With(layout, {"recompute." + module + "=true"}), 3),
                     kept);
    }
  }
}

TEST(Parity, RecomputationOnAndOffAreBitwiseEqual) {
  const auto layout = With(kSmall, BestExpertLayout());
  const TrainingRun kept = Train(parallel::TestWorld(), "tiny-moe.textproto", layout, 5);
  for (const std::string module : {"attention", "mlp", "moe", "norm", "block"}) {
    SCOPED_TRACE(module);
    ExpectSameBits(Train(parallel::TestWorld(), "tiny-moe.textproto",
                         With(layout, {"recompute." + module + "=true"}), 5),
                   kept);
  }
}

TEST(Parity, QueuedComputeStreamIsBitwiseEqualToInline) {
  const auto layout = With(kSmall, BestExpertLayout());
  ExpectSameBits(
      Train(parallel::TestWorld(), "tiny-moe.textproto", layout, 5),
      Train(parallel::TestWorld(), "tiny-moe.textproto", layout, 5, kernels::StreamMode::kQueue));
  const std::string microbatches = Has(3) ? "schedule.microbatches=2" : "schedule.microbatches=3";
  const auto sharded = With(layout, {"zero.level=3", microbatches});
  ExpectSameBits(
      Train(parallel::TestWorld(), "tiny-moe.textproto", sharded, 5),
      Train(parallel::TestWorld(), "tiny-moe.textproto", sharded, 5, kernels::StreamMode::kQueue));
}

TEST(Parity, BucketSizeDoesNotChangeBits) {
  const auto layout = With(kSmall, BestExpertLayout());
  const TrainingRun small = Train(parallel::TestWorld(), "tiny-moe.textproto", layout, 5);
  const TrainingRun large = Train(parallel::TestWorld(), "tiny-moe.textproto",
                                  With(layout, {"communication.bucket_megabytes=64"}), 5);
  EXPECT_EQ(small.loss_bits, large.loss_bits);
}

TEST(StepTime, BreakdownSumsToTheStep) {
  const TrainingRun run =
      Train(parallel::TestWorld(), "tiny-moe.textproto", With(kSmall, BestExpertLayout()), 5);
  for (const StepMetrics& metrics : run.metrics) {
    double sum = 0;
    for (double seconds : metrics.breakdown_seconds) {
      EXPECT_GE(seconds, 0);
      sum += seconds;
    }
    EXPECT_NEAR(sum, metrics.step_seconds, 1e-9);
  }
}

}  // namespace
}  // namespace muster::runtime
