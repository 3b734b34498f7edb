#pragma once
// Token embedding "embedding.weight" [V, D], plus "position_embedding.weight" [P, D] where the
// config learns positions. Over the tensor group each rank has a part of the vocabulary, and the
// ranks' outputs add up.
#include <optional>

#include "models/layer.h"

namespace muster::models {

class Embedding {
 public:
  explicit Embedding(StageContext& stage);
  Embedding(const Embedding&) = delete;
  Embedding& operator=(const Embedding&) = delete;
  void PlanMemory(ArenaPlan& plan);
  // From all tokens of the microbatch to the stream.
  absl::Status Forward(const Pass& pass, TensorView tokens, TensorView out_TD) const;
  // The last contribution to a table that is tied to the output projection, too.
  absl::Status BackwardWeight(const Pass& pass, TensorView tokens, TensorView d_out_TD) const;
  const Weight& table() const { return table_; }

 private:
  const StageContext& stage_;
  Weight table_;
  std::optional<Weight> positions_;
  TensorView all_TD_;  // scratch, with sequence parallelism
};

// The placement of a [V, D] table over the tensor group.
parallel::Placement VocabularyPlacement(const StageContext& stage);

}  // namespace muster::models
