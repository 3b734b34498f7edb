#pragma once
// Token embedding "embedding.weight" [V, D], plus "position_embedding.weight" [P, D] where the
// config learns positions.
#include <optional>

#include "models/layer.h"

namespace muster::models {

class Embedding {
 public:
  explicit Embedding(StageContext& stage);
  void Forward(const Pass& pass, TensorView tokens, TensorView out_TD) const;
  // The last contribution to a table that is tied to the output projection, too.
  void BackwardWeight(const Pass& pass, TensorView tokens, TensorView d_out_TD) const;
  const Weight& table() const { return table_; }

 private:
  Weight table_;
  std::optional<Weight> positions_;
};

}  // namespace muster::models
