#include "models/cost.h"

#include "models/config.h"

namespace muster::models {
namespace {

// Parameters of one part: all, and those that enter a matrix product (2 FLOPs a token each).
struct Count {
  int64_t all = 0, matmul = 0;
  void AddLinear(int64_t in, int64_t out, bool bias) {
    all += in * out + (bias ? out : 0);
    matmul += in * out;
  }
};

int64_t NormParameters(const ModelConfig& config) {
  const bool bias = config.norm() == LAYER_NORM && config.bias();
  return config.hidden() * (bias ? 2 : 1);
}

// qkv: D -> (H + 2K) C, output: H C -> D.
Count AttentionCount(const ModelConfig& config) {
  Count count;
  const int64_t C = config.head_size(), H = config.heads(), K = config.kv_heads();
  count.AddLinear(config.hidden(), (H + 2 * K) * C, config.bias());
  count.AddLinear(H * C, config.hidden(), config.bias());
  return count;
}

// Up (and gate): D -> F (2F), down: F -> D.
Count MlpCount(const ModelConfig& config, int64_t ffn_hidden, bool bias) {
  Count count;
  const int64_t widening = config.activation() == SWIGLU ? 2 : 1;
  count.AddLinear(config.hidden(), widening * ffn_hidden, bias);
  count.AddLinear(ffn_hidden, config.hidden(), bias);
  return count;
}

// Parameters of one block: those that every token meets, the routed experts, and as many of these
// as a token chooses.
struct LayerCount {
  Count common;
  int64_t experts = 0, active_experts = 0;
  double matmul_flops() const {  // of a token in training: forward 2 a weight, backward 4
    return 6.0 * static_cast<double>(common.matmul + active_experts);
  }
};

LayerCount CountLayer(const ModelConfig& config, int layer) {
  LayerCount count;
  count.common = AttentionCount(config);
  count.common.all += 2 * NormParameters(config);
  Count fixed;  // the block's dense part behind attention
  if (IsMoeLayer(config, layer)) {
    const MoeConfig& moe = config.moe();
    const Count expert = MlpCount(config, moe.expert_ffn_hidden(), false);
    fixed = MlpCount(config, int64_t{moe.shared_experts()} * moe.expert_ffn_hidden(), false);
    count.common.AddLinear(config.hidden(), moe.experts(), false);
    count.experts = moe.experts() * expert.all;
    count.active_experts = moe.top_k() * expert.all;
  } else {
    fixed = MlpCount(config, config.ffn_hidden(), config.bias());
  }
  count.common.all += fixed.all;
  count.common.matmul += fixed.matmul;
  return count;
}

// Q K^T and P V of one layer: 2 x 2 H C FLOPs for each key that a query meets; three times that in
// training.
double AttentionFlopsPerKey(const ModelConfig& config) {
  return 12.0 * config.heads() * config.head_size();
}
double MeanKeys(int64_t sequence_length) { return (static_cast<double>(sequence_length) + 1) / 2; }

// The products of one layer's forward that its backward runs again, for a token: see
// Attention::Recompute, Mlp::Recompute, Moe::Recompute and Block::RecomputeBlock.
double RecomputedFlops(const ModelConfig& config, int layer, int64_t sequence_length,
                       const Recompute& recompute) {
  const double D = config.hidden(), C = config.head_size(), H = config.heads();
  double flops = 0;
  if (recompute.attention || recompute.block) {
    flops += 2 * D * (H + 2.0 * config.kv_heads()) * C;
    flops += AttentionFlopsPerKey(config) / 3 * MeanKeys(sequence_length);
  }
  if (recompute.block) flops += 2 * H * C * D;  // else the output projection is not needed again
  const double up = 2 * D * (config.activation() == SWIGLU ? 2 : 1);  // for a hidden channel
  if (!IsMoeLayer(config, layer)) {
    if (recompute.mlp || recompute.block) flops += up * config.ffn_hidden();
  } else if (recompute.moe || recompute.block) {
    const MoeConfig& moe = config.moe();
    flops += up * moe.expert_ffn_hidden() * (moe.top_k() + moe.shared_experts());
  }
  return flops;
}

// Whether or not its weight is the embedding's.
double OutputFlops(const ModelConfig& config) {
  return 6.0 * static_cast<double>(int64_t{config.vocab_size()} * config.hidden());
}

}  // namespace

ModelCost CostOf(const ModelConfig& config, int64_t sequence_length, const Recompute& recompute) {
  ModelCost cost;
  const int64_t V = config.vocab_size(), D = config.hidden();
  cost.embedding_parameters = V * D;
  if (config.position() == LEARNED) cost.embedding_parameters += config.max_positions() * D;

  cost.parameters =
      cost.embedding_parameters + (config.tied_embeddings() ? 0 : V * D) + NormParameters(config);
  cost.active_parameters = cost.parameters;
  cost.matmul_flops_per_token = OutputFlops(config);
  for (int layer = 0; layer < config.layers(); ++layer) {
    const LayerCount count = CountLayer(config, layer);
    cost.parameters += count.common.all + count.experts;
    cost.active_parameters += count.common.all + count.active_experts;
    cost.expert_parameters += count.experts;
    cost.matmul_flops_per_token += count.matmul_flops();
    cost.recomputed_flops_per_token += RecomputedFlops(config, layer, sequence_length, recompute);
  }
  const double per_key = config.layers() * AttentionFlopsPerKey(config);
  cost.attention_flops_per_token_causal = per_key * MeanKeys(sequence_length);
  cost.attention_flops_per_token_full = per_key * static_cast<double>(sequence_length);
  return cost;
}

PartCosts CostsOfParts(const ModelConfig& config, int64_t sequence_length) {
  PartCosts costs;
  for (int layer = 0; layer < config.layers(); ++layer) {
    costs.layers.push_back(CountLayer(config, layer).matmul_flops() +
                           AttentionFlopsPerKey(config) * MeanKeys(sequence_length));
  }
  costs.output = OutputFlops(config);
  return costs;
}

}  // namespace muster::models
