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

}  // namespace

ModelCost CostOf(const ModelConfig& config, int64_t sequence_length) {
  ModelCost cost;
  const int64_t V = config.vocab_size(), D = config.hidden();
  cost.embedding_parameters = V * D;
  if (config.position() == LEARNED) cost.embedding_parameters += config.max_positions() * D;

  // The output projection costs FLOPs whether or not its weight is the embedding's.
  int64_t active_matmul = V * D;
  cost.parameters =
      cost.embedding_parameters + (config.tied_embeddings() ? 0 : V * D) + NormParameters(config);
  cost.active_parameters = cost.parameters;
  for (int layer = 0; layer < config.layers(); ++layer) {
    Count common = AttentionCount(config);
    common.all += 2 * NormParameters(config);
    int64_t experts = 0, active_experts = 0;
    if (IsMoeLayer(config, layer)) {
      const MoeConfig& moe = config.moe();
      const Count expert = MlpCount(config, moe.expert_ffn_hidden(), false);
      const Count shared =
          MlpCount(config, int64_t{moe.shared_experts()} * moe.expert_ffn_hidden(), false);
      common.AddLinear(D, moe.experts(), false);
      common.all += shared.all;
      common.matmul += shared.matmul;
      experts = moe.experts() * expert.all;
      active_experts = moe.top_k() * expert.all;
    } else {
      const Count mlp = MlpCount(config, config.ffn_hidden(), config.bias());
      common.all += mlp.all;
      common.matmul += mlp.matmul;
    }
    cost.parameters += common.all + experts;
    cost.active_parameters += common.all + active_experts;
    cost.expert_parameters += experts;
    active_matmul += common.matmul + active_experts;
  }

  // Forward 2 FLOPs a weight and token, backward twice as many.
  cost.matmul_flops_per_token = 6.0 * static_cast<double>(active_matmul);
  // Q K^T and P V: 2 x 2 H C FLOPs for each key that a query meets; three times that in training.
  const double S = static_cast<double>(sequence_length);
  const double per_key = 12.0 * config.layers() * config.heads() * config.head_size();
  cost.attention_flops_per_token_causal = per_key * (S + 1) / 2;
  cost.attention_flops_per_token_full = per_key * S;
  return cost;
}

}  // namespace muster::models
