#include "models/embedding.h"

#include "kernels/ops/embedding.h"

namespace muster::models {

using parallel::InitRule;

parallel::Placement VocabularyPlacement(const StageContext& stage) {
  return {.shards = {{.axis = parallel::Axis::kTensor, .dim = 0, .uneven = true}},
          .tie = stage.table_tie};
}

Embedding::Embedding(StageContext& stage)
    : stage_(stage),
      table_(stage, "embedding.weight", {stage.config.vocab_size(), stage.config.hidden()},
             {.init = {InitRule::Kind::kNormal, stage.config.init_std()},
              .placement = VocabularyPlacement(stage)}) {
  if (stage.config.position() == LEARNED) {
    positions_.emplace(stage, "position_embedding.weight",
                       kernels::Shape{stage.config.max_positions(), stage.config.hidden()},
                       Weight::Options{.init = {InitRule::Kind::kNormal, stage.config.init_std()}});
  }
}

void Embedding::PlanMemory(ArenaPlan& plan) {
  if (!stage_.tensor().sequence_parallel()) return;
  const ArenaPlan::ScratchScope scratch(plan);
  plan.Add(&all_TD_, "embedding.all", stage_.shape.dtype,
           {stage_.shape.tokens(), stage_.config.hidden()}, Lifetime::kScratch);
}

absl::Status Embedding::Forward(const Pass& pass, TensorView tokens, TensorView out_TD) const {
  const parallel::TensorParallel tensor = stage_.tensor();
  const TensorView table = table_.Use(pass.compute);
  TensorView positions = positions_ ? positions_->Use(pass.compute) : TensorView();
  if (tensor.rank() != 0) positions = {};  // once in the sum over the ranks
  const TensorView partial_TD = tensor.Partial(out_TD, all_TD_);
  kernels::EmbeddingForward({.tokens = tokens,
                             .table = table,
                             .position_table = positions,
                             .positions = positions ? pass.positions : TensorView(),
                             .out = partial_TD,
                             .vocab_begin = table_.slice().begin[0]},
                            pass.compute);
  return tensor.Reduce(partial_TD, out_TD, pass.compute);
}

absl::Status Embedding::BackwardWeight(const Pass& pass, TensorView tokens,
                                       TensorView d_out_TD) const {
  const parallel::TensorParallel tensor = stage_.tensor();
  if (positions_) {
    if (tensor.contributes()) {
      kernels::EmbeddingBackward({.d_out = d_out_TD,
                                  .indices = tensor.StreamRows(pass.positions),
                                  .d_table = positions_->gradient()},
                                 pass.compute);
    } else {
      positions_->AddNothing();
    }
    positions_->Ready(pass.compute);
  }
  ASSIGN_OR_RETURN(const TensorView all_d_out_TD, tensor.Gather(d_out_TD, all_TD_, pass.compute));
  kernels::EmbeddingBackward({.d_out = all_d_out_TD,
                              .indices = tokens,
                              .d_table = table_.gradient(),
                              .vocab_begin = table_.slice().begin[0]},
                             pass.compute);
  table_.Ready(pass.compute);
  return absl::OkStatus();
}

}  // namespace muster::models
