#pragma once
// One pipeline stage of a GPT: embedding (first stage), blocks, final norm and output projection
// (last stage). A rank may hold several; they share what is the rank's: rotary table, balance,
// losses, the step's microbatches.
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/block.h"
#include "models/embedding.h"
#include "models/layer.h"
#include "models/norm.h"
#include "models/output.h"

namespace muster::models {

// A microbatch's input on the device; contiguous int32 [T], one sequence after another.
struct MicrobatchTokens {
  TensorView tokens, targets, positions;
};

// Which blocks a pass runs.
enum class Extent {
  kAll,
  // The first of each kind: every kernel, at every shape, in a fraction of the time. The gradients
  // of the rest become ready without a value.
  kOneOfAKind,
};

// What the stages of a rank read and write in common.
struct RankState {
  TensorView rope_table;  // [max positions, C / 2, 2]
  BalanceState balance;   // of all MoE layers of the model
  TensorView losses;      // fp64 [3]
  std::vector<MicrobatchTokens> microbatches;
  double loss_scale = 0;
  Extent extent = Extent::kAll;  // but all, where the backward is split
};

class GptStage {
 public:
  // `table`: the embedding's, where a first stage of this rank has it and a last one shares it.
  GptStage(const ModelConfig& config, const StageShape& shape, const StageSpec& spec,
           const parallel::Mesh& mesh, const RankState& rank, const Weight* table,
           parallel::ParameterList& parameters);
  GptStage(const GptStage&) = delete;
  GptStage& operator=(const GptStage&) = delete;
  void PlanMemory(ArenaPlan& plan);
  void Initialise(const parallel::ParameterList& parameters, parallel::ParameterHooks& hooks,
                  StreamView compute);

  // As parallel::Stage has them.
  absl::Status Forward(int microbatch, TensorView in, TensorView out, StreamView compute);
  absl::Status Evaluate(int microbatch, TensorView in, TensorView out, StreamView compute);
  absl::Status Backward(int microbatch, TensorView d_out, TensorView d_in, StreamView compute);
  absl::Status BackwardInput(int microbatch, TensorView d_out, TensorView d_in, StreamView compute);
  absl::Status BackwardWeight(int microbatch, StreamView compute);
  // Of a stage that is the whole model.
  absl::StatusOr<TensorView> Logits(int microbatch, StreamView compute);

  const StageSpec& spec() const { return spec_; }
  const Weight* table() const { return embedding_ ? &embedding_->table() : nullptr; }

 private:
  Pass PassOf(int microbatch, StreamView compute) const;
  const MicrobatchTokens& Tokens(int microbatch) const {
    return rank_.microbatches[static_cast<size_t>(microbatch)];
  }
  // From `in` or the embedding to `out` or the final norm, whose y the output projection reads.
  absl::Status RunBlocks(int microbatch, TensorView in, TensorView out, const Pass& pass);
  // With split_backward: the gradient of the residual stream below block `block`, or above the
  // last one.
  TensorView& StreamGradient(const Pass& pass, size_t block) {
    return d_stream_TD_[static_cast<size_t>(pass.gradient_slot)][block];
  }

  // Not in kOneOfAKind.
  bool PassesOver(size_t block) const {
    return rank_.extent == Extent::kOneOfAKind && !context_.shape.split_backward &&
           !first_of_kind_[block];
  }
  void ReadyWithoutValue(size_t block, StreamView compute);

  const StageSpec spec_;
  const RankState& rank_;
  StageContext context_;
  // By block.
  std::vector<bool> first_of_kind_;
  std::vector<parallel::ParameterId> first_parameter_;  // and that behind the last block's
  // In the order of the forward, which is that of the parameters.
  std::unique_ptr<Embedding> embedding_;  // first stage
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<NormLayer> final_norm_;  // last stage
  std::unique_ptr<Output> output_;         // last stage

  TensorView delta_TD_;  // scratch
  TensorView d_TD_;      // scratch: gradient of the residual stream, of a first stage
  // [gradient slots][blocks + 1] with split_backward, where layers read them again for their
  // weights.
  std::vector<std::vector<TensorView>> d_stream_TD_;
};

}  // namespace muster::models
