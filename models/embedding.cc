#include "models/embedding.h"

#include "kernels/ops/embedding.h"

namespace muster::models {

using parallel::InitRule;

Embedding::Embedding(StageContext& stage)
    : table_(stage, "embedding.weight", {stage.config.vocab_size(), stage.config.hidden()},
             {.init = {InitRule::Kind::kNormal, stage.config.init_std()}}) {
  if (stage.config.position() == LEARNED) {
    positions_.emplace(stage, "position_embedding.weight",
                       kernels::Shape{stage.config.max_positions(), stage.config.hidden()},
                       Weight::Options{.init = {InitRule::Kind::kNormal, stage.config.init_std()}});
  }
}

void Embedding::Forward(const Pass& pass, TensorView tokens, TensorView out_TD) const {
  kernels::EmbeddingForward(
      {.tokens = tokens,
       .table = table_.Use(pass.compute),
       .position_table = positions_ ? positions_->Use(pass.compute) : TensorView(),
       .positions = positions_ ? pass.positions : TensorView(),
       .out = out_TD},
      pass.compute);
}

void Embedding::BackwardWeight(const Pass& pass, TensorView tokens, TensorView d_out_TD) const {
  if (positions_) {
    kernels::EmbeddingBackward(
        {.d_out = d_out_TD, .indices = pass.positions, .d_table = positions_->gradient()},
        pass.compute);
    positions_->Ready(pass.compute);
  }
  kernels::EmbeddingBackward({.d_out = d_out_TD, .indices = tokens, .d_table = table_.gradient()},
                             pass.compute);
  table_.Ready(pass.compute);
}

}  // namespace muster::models
