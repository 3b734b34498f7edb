#include "models/cost.h"

#include <gtest/gtest.h>

#include "tests/support/models/model_config.h"

namespace muster::models {
namespace {

ModelConfig Shipped(const std::string& name) {
  return ConfigFromFile(std::string(MUSTER_SOURCE_DIR) + "/configs/models/" + name + ".textproto");
}

TEST(CostOf, CountsThePublishedParameters) {
  EXPECT_EQ(CostOf(Shipped("gpt2-124m"), 1024).parameters, 124'439'808);
  EXPECT_EQ(CostOf(Shipped("gpt2-1558m"), 1024).parameters, 1'557'611'200);
  EXPECT_EQ(CostOf(Shipped("llama3-8b"), 8192).parameters, 8'030'261'248);
  EXPECT_EQ(CostOf(Shipped("llama-1.5b"), 2048).parameters, 1'498'482'688);
  EXPECT_EQ(CostOf(Shipped("mixtral-8x7b"), 4096).parameters, 46'702'792'704);
  EXPECT_EQ(CostOf(Shipped("deepseek-moe-16b"), 4096).parameters, 16'375'728'128);
}

TEST(CostOf, CountsThePublishedActiveParameters) {
  EXPECT_EQ(CostOf(Shipped("mixtral-8x7b"), 4096).active_parameters, 12'879'925'248);
  // Qwen3-30B-A3B without its query and key norms (48 x 2 x 128 parameters).
  const ModelCost cost = CostOf(ConfigOf(R"(
    vocab_size: 151936 hidden: 2048 layers: 48 heads: 32 kv_heads: 4 head_size: 128
    max_positions: 40960 moe { experts: 128 top_k: 8 expert_ffn_hidden: 768 })"),
                                4096);
  EXPECT_EQ(cost.parameters, 30'532'122'624 - 48 * 2 * 128);
  EXPECT_EQ(cost.expert_parameters, int64_t{48} * 128 * 3 * 2048 * 768);
  EXPECT_EQ(cost.active_parameters, cost.parameters - cost.expert_parameters / 128 * 120);
}

TEST(CostOf, DenseModelsHaveNoExpertsAndAreActive) {
  const ModelCost cost = CostOf(Shipped("gpt2-124m"), 1024);
  EXPECT_EQ(cost.expert_parameters, 0);
  EXPECT_EQ(cost.active_parameters, cost.parameters);
  EXPECT_EQ(cost.embedding_parameters, (50257 + 1024) * 768);
}

// D 4, 2 heads of 2, one key/value head, F 6, V 10, S 3, by hand.
TEST(CostOf, CountsFlopsOfASmallModelByHand) {
  const ModelCost cost = CostOf(ConfigOf("vocab_size: 10 hidden: 4 layers: 1 heads: 2 kv_heads: 1 "
                                         "ffn_hidden: 6 max_positions: 8"),
                                3);
  const int qkv = 4 * (2 + 2) * 2, out = 4 * 4, mlp = 3 * 4 * 6, output = 10 * 4;
  EXPECT_EQ(cost.parameters, qkv + out + mlp + 2 * output + 3 * 4);
  EXPECT_DOUBLE_EQ(cost.matmul_flops_per_token, 6.0 * (qkv + out + mlp + output));
  // Queries 0, 1, 2 meet 1, 2, 3 keys: 2 on average.
  EXPECT_DOUBLE_EQ(cost.attention_flops_per_token_causal, 3.0 * 2 * 2 * (2 * 2) * 2);
  EXPECT_DOUBLE_EQ(cost.attention_flops_per_token_full, 3.0 * 2 * 2 * (2 * 2) * 3);
  EXPECT_DOUBLE_EQ(cost.flops_per_token(),
                   cost.matmul_flops_per_token + cost.attention_flops_per_token_causal);
}

// D 4, F of an expert 3, 4 experts, 2 chosen, one shared, the first layer dense.
TEST(CostOf, CountsExpertsAsUsed) {
  const ModelConfig config = ConfigOf(R"(
    vocab_size: 10 hidden: 4 layers: 2 heads: 1 ffn_hidden: 6 max_positions: 8
    moe { experts: 4 top_k: 2 expert_ffn_hidden: 3 shared_experts: 1 first_dense_layers: 1 })");
  const ModelCost cost = CostOf(config, 3);
  const int attention = 4 * 3 * 4 + 4 * 4, expert = 3 * 4 * 3, dense = 3 * 4 * 6, router = 4 * 4;
  EXPECT_EQ(cost.expert_parameters, 4 * expert);
  EXPECT_EQ(cost.parameters, 2 * 10 * 4 + 5 * 4 + 2 * attention + dense + router + 5 * expert);
  EXPECT_EQ(cost.active_parameters, cost.parameters - 2 * expert);
  EXPECT_DOUBLE_EQ(cost.matmul_flops_per_token,
                   6.0 * (10 * 4 + 2 * attention + dense + router + 3 * expert));
}

// The same models by hand: forward products that a backward runs again.
TEST(CostOf, CountsWhatIsRecomputedByHand) {
  const ModelConfig dense = ConfigOf(
      "vocab_size: 10 hidden: 4 layers: 1 heads: 2 kv_heads: 1 ffn_hidden: 6 max_positions: 8");
  const ModelConfig moe = ConfigOf(R"(
    vocab_size: 10 hidden: 4 layers: 2 heads: 1 ffn_hidden: 6 max_positions: 8
    moe { experts: 4 top_k: 2 expert_ffn_hidden: 3 shared_experts: 1 first_dense_layers: 1 })");
  const auto recomputed = [](const ModelConfig& config, const Recompute& recompute) {
    return CostOf(config, 3, recompute).recomputed_flops_per_token;
  };
  // Two products of 4 channels with 2 keys on average.
  const int qkv = 4 * (2 + 2) * 2, scores = 2 * (2 * 2) * 2, out = 4 * 4, up = 2 * 4 * 6;
  EXPECT_EQ(recomputed(dense, {}), 0);
  EXPECT_EQ(recomputed(dense, {.norm = true}), 0);
  EXPECT_DOUBLE_EQ(recomputed(dense, {.attention = true}), 2.0 * (qkv + scores));
  EXPECT_DOUBLE_EQ(recomputed(dense, {.mlp = true}), 2.0 * up);
  EXPECT_EQ(recomputed(dense, {.moe = true}), 0);
  EXPECT_DOUBLE_EQ(recomputed(dense, {.block = true}), 2.0 * (qkv + scores + out + up));
  EXPECT_EQ(recomputed(dense, {.attention = true, .mlp = true, .norm = true, .block = true}),
            recomputed(dense, {.block = true}));
  const int experts = 3 * 2 * 4 * 3, layers_attention = 2 * (4 * 3 * 4 + 2 * 4 * 2);
  EXPECT_DOUBLE_EQ(recomputed(moe, {.mlp = true}), 2.0 * up);
  EXPECT_DOUBLE_EQ(recomputed(moe, {.moe = true}), 2.0 * experts);
  EXPECT_DOUBLE_EQ(recomputed(moe, {.block = true}),
                   2.0 * (layers_attention + 2 * out + up + experts));
}

TEST(CostOf, RecomputingABlockCostsLessThanItsForward) {
  for (const char* name : {"gpt2-124m", "llama3-8b", "mixtral-8x7b"}) {
    const ModelCost plain = CostOf(Shipped(name), 1024);
    const ModelCost block = CostOf(Shipped(name), 1024, {.block = true});
    EXPECT_EQ(block.flops_per_token(), plain.flops_per_token()) << name;
    EXPECT_EQ(plain.hardware_flops_per_token(), plain.flops_per_token()) << name;
    EXPECT_GT(block.hardware_flops_per_token(), plain.flops_per_token()) << name;
    EXPECT_LT(block.hardware_flops_per_token(), 4. / 3 * plain.flops_per_token()) << name;
  }
}

TEST(CostOf, TiedEmbeddingsSaveParametersNotFlops) {
  ModelConfig config = Shipped("tiny-dense");
  const ModelCost untied = CostOf(config, 64);
  config.set_tied_embeddings(true);
  const ModelCost tied = CostOf(config, 64);
  EXPECT_EQ(tied.parameters, untied.parameters - 256 * 64);
  EXPECT_EQ(tied.matmul_flops_per_token, untied.matmul_flops_per_token);
}

}  // namespace
}  // namespace muster::models
