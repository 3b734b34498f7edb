#include "models/config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/models/model_config.h"

namespace muster::models {
namespace {

constexpr char kDense[] =
    "vocab_size: 64 hidden: 32 layers: 4 heads: 4 ffn_hidden: 48 max_positions: 16 ";
constexpr char kMoe[] =
    "vocab_size: 64 hidden: 32 layers: 4 heads: 4 ffn_hidden: 48 max_positions: 16 "
    "moe { experts: 8 top_k: 2 } ";

std::vector<std::string> ProblemsOf(const ModelConfig& config) {
  std::vector<std::string> problems;
  CheckModel(config, &problems);
  return problems;
}

TEST(FillDefaults, DerivesHeadsAndWidths) {
  const ModelConfig config = ConfigOf(kMoe);
  EXPECT_EQ(config.kv_heads(), 4);
  EXPECT_EQ(config.head_size(), 8);
  EXPECT_EQ(config.moe().expert_ffn_hidden(), 48);
}

TEST(FillDefaults, KeepsWhatIsSet) {
  const ModelConfig config = ConfigOf(std::string(kDense) + "kv_heads: 2 head_size: 16");
  EXPECT_EQ(config.kv_heads(), 2);
  EXPECT_EQ(config.head_size(), 16);
}

TEST(CheckModel, AcceptsEveryConfigThatIsShipped) {
  int count = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(std::string(MUSTER_SOURCE_DIR) + "/configs/models")) {
    const ModelConfig config = ConfigFromFile(file.path());
    EXPECT_EQ(config.name(), file.path().stem());
    EXPECT_TRUE(ProblemsOf(config).empty()) << file.path() << ": " << ProblemsOf(config)[0];
    ++count;
  }
  EXPECT_GE(count, 8);
}

// Each broken rule gives exactly one sentence, which names the field.
TEST(CheckModel, NamesEachBrokenRule) {
  const struct {
    const char *base, *change, *field;
  } cases[] = {
      {kDense, "vocab_size: 0", "model.vocab_size is 0"},
      {kDense, "hidden: -1 head_size: 8", "model.hidden is -1"},
      {kDense, "layers: 0 ", "model.layers is 0"},
      {kDense, "heads: 0 kv_heads: 1 head_size: 8", "model.heads is 0"},
      {kDense, "kv_heads: 3", "must divide heads (4); the nearest that does is 2 or 4"},
      {kDense, "head_size: 7", "use 6 or 8"},
      {kDense, "ffn_hidden: 0", "model.ffn_hidden is 0"},
      {kDense, "max_positions: 0", "model.max_positions is 0"},
      {kDense, "norm_epsilon: 0", "model.norm_epsilon is 0"},
      {kDense, "rope_theta: nan", "model.rope_theta is nan"},
      {kDense, "init_std: -0.5", "model.init_std is -0.5"},
      {kMoe, "moe { experts: 0 }", "model.moe.experts is 0"},
      {kMoe, "moe { top_k: 9 }", "must be within 1 and 8"},
      {kMoe, "moe { expert_ffn_hidden: 0 }", "model.moe.expert_ffn_hidden is 0"},
      {kMoe, "moe { shared_experts: -1 }", "model.moe.shared_experts is -1"},
      {kMoe, "moe { first_dense_layers: 4 }", "leaves no MoE layer"},
      {kMoe, "moe { layer_period: 0 }", "model.moe.layer_period is 0"},
      {kMoe, "moe { groups: 3 }", "the nearest that does is 2 or 4"},
      {kMoe, "moe { groups: 4 group_top_k: 5 }", "must be within 1 and 4"},
      {kMoe, "moe { groups: 8 group_top_k: 1 }", "use at least 2"},
      {kMoe, "moe { weight_scale: 0 }", "model.moe.weight_scale is 0"},
      {kMoe, "moe { aux_loss: -1 }", "model.moe.aux_loss is -1"},
      {kMoe, "moe { z_loss: inf }", "model.moe.z_loss is inf"},
      {kMoe, "moe { bias_update_rate: -1 }", "model.moe.bias_update_rate is -1"},
      {kMoe, "moe { capacity_factor: -1 }", "model.moe.capacity_factor is -1"},
  };
  for (const auto& c : cases) {
    ModelConfig config = ConfigOf(c.base);
    ModelConfig change;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(c.change, &change)) << c.change;
    config.MergeFrom(change);
    const std::vector<std::string> problems = ProblemsOf(config);
    ASSERT_EQ(problems.size(), 1u) << c.change;
    EXPECT_NE(problems[0].find(c.field), std::string::npos) << problems[0];
  }
}

TEST(CheckModel, ListsAllProblemsAtOnce) {
  const ModelConfig config = ConfigOf(
      "vocab_size: 0 hidden: 32 layers: 4 heads: 4 kv_heads: 3 ffn_hidden: 0 max_positions: 16");
  EXPECT_EQ(ProblemsOf(config).size(), 3u);
}

TEST(CheckModel, WantsNoDenseWidthWhereAllLayersAreMoe) {
  ModelConfig config = ConfigOf(kMoe);
  config.clear_ffn_hidden();
  EXPECT_TRUE(ProblemsOf(config).empty());
  config.mutable_moe()->set_first_dense_layers(1);
  EXPECT_EQ(ProblemsOf(config).size(), 1u);
}

TEST(CheckModelOnMesh, ExpertsAreDividedByEp) {
  parallel::MeshDegrees mesh;
  mesh.dp = 4;
  mesh.ep = 4;
  std::vector<std::string> problems;
  CheckModelOnMesh(ConfigOf(kMoe), mesh, &problems);
  EXPECT_TRUE(problems.empty());
  mesh.ep = 3;
  CheckModelOnMesh(ConfigOf(kMoe), mesh, &problems);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_NE(problems[0].find("the nearest that does is 2 or 4"), std::string::npos) << problems[0];
  CheckModelOnMesh(ConfigOf(kDense), mesh, &problems);
  EXPECT_EQ(problems.size(), 2u);
}

TEST(CheckModelOnMesh, HeadsAndHiddenChannelsAreDividedByTp) {
  const ModelConfig config = ConfigOf(std::string(kDense) + "kv_heads: 2");
  for (const int tp : {1, 2, 3, 4}) {
    std::vector<std::string> problems;
    CheckModelOnMesh(config, {.dp = 1, .tp = tp}, &problems);
    EXPECT_EQ(problems.empty(), tp <= 2);
    if (tp <= 2) continue;
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_NE(problems[0].find("mesh.tp is " + std::to_string(tp)), std::string::npos);
    EXPECT_NE(problems[0].find("model.kv_heads (2)"), std::string::npos) << problems[0];
    EXPECT_NE(problems[0].find("the nearest that does is 2"), std::string::npos) << problems[0];
  }
}

TEST(IsMoeLayer, CountsThePeriodAfterTheDenseLayers) {
  ModelConfig config = ConfigOf(kMoe);
  EXPECT_EQ(NumMoeLayers(config), 4);
  config.set_layers(7);
  config.mutable_moe()->set_first_dense_layers(1);
  config.mutable_moe()->set_layer_period(2);
  for (int layer = 0; layer < 7; ++layer) {
    EXPECT_EQ(IsMoeLayer(config, layer), layer == 2 || layer == 4 || layer == 6) << layer;
  }
  config.clear_moe();
  EXPECT_EQ(NumMoeLayers(config), 0);
}

}  // namespace
}  // namespace muster::models
