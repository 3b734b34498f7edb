#pragma once
// Small models that between them contain every kind of layer.
#include <ostream>
#include <string>
#include <vector>

#include "tests/support/models/model_config.h"

namespace muster::models {

struct ModelCase {
  const char* name;
  const char* text;
  ModelConfig config() const { return ConfigOf(text); }
};
inline void PrintTo(const ModelCase& model, std::ostream* out) { *out << model.name; }

// Weights are ten times larger than in training, so that every gradient is well above rounding.
inline const std::vector<ModelCase>& ModelCases() {
  static const std::vector<ModelCase> kCases = {
      {"Gpt2", R"(vocab_size: 29 hidden: 16 layers: 2 heads: 4 ffn_hidden: 40 max_positions: 12
                  norm: LAYER_NORM activation: GELU position: LEARNED tied_embeddings: true
                  bias: true init_std: 0.2)"},
      {"Llama", R"(vocab_size: 29 hidden: 16 layers: 2 heads: 4 kv_heads: 2 head_size: 6
                   ffn_hidden: 24 max_positions: 12 rope_theta: 100 init_std: 0.2)"},
      {"MoeSoftmax", R"(vocab_size: 29 hidden: 16 layers: 2 heads: 2 max_positions: 12
                        init_std: 0.2 moe { experts: 12 top_k: 2 expert_ffn_hidden: 10
                        aux_loss: 0.1 z_loss: 0.05 })"},
      {"MoeSigmoidShared", R"(vocab_size: 29 hidden: 16 layers: 3 heads: 2 ffn_hidden: 24
                              max_positions: 12 init_std: 0.2
                              moe { experts: 12 top_k: 3 expert_ffn_hidden: 10 shared_experts: 2
                              first_dense_layers: 1 score: SIGMOID weight_scale: 2.5 groups: 3
                              group_top_k: 2 aux_loss: 0.1 bias_update_rate: 0.05 })"},
      {"MoeCapacity", R"(vocab_size: 29 hidden: 16 layers: 2 heads: 2 ffn_hidden: 24
                         max_positions: 12 norm: LAYER_NORM activation: GELU init_std: 0.2
                         moe { experts: 12 top_k: 1 expert_ffn_hidden: 10 layer_period: 2
                         normalise_weights: false capacity_factor: 1.25 aux_loss: 0.1
                         aux_level: BATCH z_loss: 0.01 })"},
  };
  return kCases;
}

}  // namespace muster::models
