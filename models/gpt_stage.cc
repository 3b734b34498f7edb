#include "models/gpt_stage.h"

#include <set>

#include "kernels/ops/reduce.h"
#include "models/config.h"

namespace muster::models {
namespace {

using parallel::Tie;

Tie TableTie(const ModelConfig& config, const StageSpec& spec) {
  if (!config.tied_embeddings() || !spec.tie_parts) return Tie::kNone;
  return spec.first ? Tie::kOwner : Tie::kCopy;
}

StageShape ShapeOf(StageShape shape, const StageSpec& spec) {
  shape.num_slots = spec.num_slots;
  shape.num_gradient_slots = spec.num_gradient_slots;
  return shape;
}

int MoeLayersBefore(const ModelConfig& config, int layer) {
  int count = 0;
  for (int i = 0; i < layer; ++i) count += IsMoeLayer(config, i);
  return count;
}

void Copy(const TensorView& to, const TensorView& from, StreamView compute) {
  kernels::CopyAsync(to.data, from.data, to.bytes(), compute);
}

}  // namespace

GptStage::GptStage(const ModelConfig& config, const StageShape& shape, const StageSpec& spec,
                   const parallel::Mesh& mesh, const RankState& rank, const Weight* table,
                   parallel::ParameterList& parameters)
    : spec_(spec),
      rank_(rank),
      context_{.config = config,
               .shape = ShapeOf(shape, spec),
               .mesh = &mesh,
               .table_tie = TableTie(config, spec),
               .building = &parameters} {
  if (spec.first) embedding_ = std::make_unique<Embedding>(context_);
  int moe_layer = MoeLayersBefore(config, spec.first_layer);
  std::set<bool> kinds;
  for (int layer = spec.first_layer; layer < spec.first_layer + spec.num_layers; ++layer) {
    first_of_kind_.push_back(kinds.insert(IsMoeLayer(config, layer)).second);
    first_parameter_.push_back(parameters.size());
    blocks_.push_back(
        std::make_unique<Block>(context_, layer, moe_layer, rank.rope_table, rank.balance));
    moe_layer += IsMoeLayer(config, layer);
  }
  first_parameter_.push_back(parameters.size());
  if (spec.last) {
    if (embedding_ && config.tied_embeddings()) table = &embedding_->table();
    final_norm_ = std::make_unique<NormLayer>(context_, "norm");
    output_ = std::make_unique<Output>(context_, config.tied_embeddings() ? table : nullptr);
  }
  if (shape.split_backward) {
    d_stream_TD_.resize(static_cast<size_t>(context_.num_gradient_slots()),
                        std::vector<TensorView>(blocks_.size() + 1));
  }
  context_.building = nullptr;
}

void GptStage::PlanMemory(ArenaPlan& plan) {
  const StageShape& shape = context_.shape;
  const ArenaPlan::ScratchScope scratch(plan);
  const kernels::Shape stream_shape = {shape.stream_tokens(), context_.config.hidden()};
  plan.Add(&delta_TD_, "delta", shape.dtype, stream_shape, Lifetime::kScratch);
  if (spec_.first && !shape.split_backward) {
    plan.Add(&d_TD_, "d_stream", shape.dtype, stream_shape, Lifetime::kScratch);
  }
  for (size_t slot = 0; slot < d_stream_TD_.size(); ++slot) {
    // What leaves a stage below its first block is in a message's buffer.
    for (size_t block = spec_.first ? 0 : 1; block < d_stream_TD_[slot].size(); ++block) {
      plan.Add(&d_stream_TD_[slot][block], SlotName("d_stream", static_cast<int>(slot)),
               shape.dtype, stream_shape, Lifetime::kActivation);
    }
  }
  if (spec_.first) embedding_->PlanMemory(plan);
  for (const std::unique_ptr<Block>& block : blocks_) block->PlanMemory(plan);
  if (!spec_.last) return;
  final_norm_->PlanMemory(plan);
  output_->PlanMemory(plan);
}

void GptStage::Initialise(const parallel::ParameterList& parameters,
                          parallel::ParameterHooks& hooks, StreamView compute) {
  context_.parameters = &parameters;
  context_.hooks = &hooks;
  context_.compute = compute;
}

Pass GptStage::PassOf(int microbatch, StreamView compute) const {
  MUSTER_CHECK(microbatch >= 0 && microbatch < static_cast<int>(rank_.microbatches.size()))
      << "microbatch " << microbatch << " of " << rank_.microbatches.size();
  return {.slot = microbatch % context_.shape.num_slots,
          .gradient_slot = microbatch % context_.num_gradient_slots(),
          .positions = Tokens(microbatch).positions,
          .compute = compute};
}

absl::Status GptStage::RunBlocks(int microbatch, TensorView in, TensorView out, const Pass& pass) {
  TensorView h_TD = blocks_.front()->input_TD(pass.slot), delta_TD;
  if (spec_.first) {
    RETURN_IF_ERROR(embedding_->Forward(pass, Tokens(microbatch).tokens, h_TD));
  } else {
    Copy(h_TD, in, pass.compute);
  }
  for (size_t block = 0; block < blocks_.size(); ++block) {
    if (PassesOver(block)) continue;
    RETURN_IF_ERROR(blocks_[block]->Forward(pass, h_TD, delta_TD, delta_TD_));
    h_TD = blocks_[block]->h_TD(pass.slot);
    delta_TD = delta_TD_;
  }
  if (spec_.last) {
    final_norm_->Forward(pass, h_TD, delta_TD);
  } else {
    kernels::Add({.a = h_TD, .b = delta_TD, .out = out}, pass.compute);
  }
  return absl::OkStatus();
}

absl::Status GptStage::Forward(int microbatch, TensorView in, TensorView out, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, in, out, pass));
  if (!spec_.last) return absl::OkStatus();
  return output_->ForwardBackward(final_norm_->y_TD(pass.slot), Tokens(microbatch).targets,
                                  rank_.loss_scale, rank_.losses.Slice(0, 0, 1), compute);
}

absl::Status GptStage::Evaluate(int microbatch, TensorView in, TensorView out, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, in, out, pass));
  if (!spec_.last) return absl::OkStatus();
  return output_->Forward(final_norm_->y_TD(pass.slot), Tokens(microbatch).targets,
                          rank_.loss_scale, rank_.losses.Slice(0, 0, 1), compute);
}

absl::Status GptStage::Backward(int microbatch, TensorView d_out, TensorView d_in,
                                StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  // The gradient that goes to the stage before is worked out in its message's buffer.
  TensorView d_TD = spec_.first ? d_TD_ : d_in;
  if (context_.shape.split_backward && spec_.first) d_TD = StreamGradient(pass, 0);
  if (spec_.last) {
    output_->Ready(compute);
    final_norm_->Backward(pass, final_norm_->y_TD(pass.slot), {}, d_TD);
    final_norm_->Ready(compute);
  } else {
    Copy(d_TD, d_out, compute);
  }
  for (size_t block = blocks_.size(); block-- > 0;) {
    if (PassesOver(block)) {
      ReadyWithoutValue(block, compute);
    } else {
      RETURN_IF_ERROR(blocks_[block]->Backward(pass, d_TD));
    }
  }
  if (!spec_.first) return absl::OkStatus();
  return embedding_->BackwardWeight(pass, Tokens(microbatch).tokens, d_TD);
}

void GptStage::ReadyWithoutValue(size_t block, StreamView compute) {
  for (parallel::ParameterId id = first_parameter_[block + 1]; id-- > first_parameter_[block];) {
    context_.hooks->Contribute(id, compute);
    context_.hooks->Ready(id, compute);
  }
}

absl::Status GptStage::BackwardInput(int microbatch, TensorView d_out, TensorView d_in,
                                     StreamView compute) {
  if (!context_.shape.split_backward) {
    return absl::FailedPreconditionError(
        "BackwardInput was called of a stage planned for Backward; set "
        "StageShape::split_backward for this schedule");
  }
  const Pass pass = PassOf(microbatch, compute);
  const TensorView& d_top_TD = StreamGradient(pass, blocks_.size());
  if (spec_.last) {
    final_norm_->Backward(pass, final_norm_->y_TD(pass.slot), {}, d_top_TD);
  } else {
    Copy(d_top_TD, d_out, compute);
  }
  for (size_t block = blocks_.size(); block-- > 0;) {
    const TensorView& d_below_TD = block == 0 && !spec_.first ? d_in : StreamGradient(pass, block);
    RETURN_IF_ERROR(
        blocks_[block]->BackwardInput(pass, StreamGradient(pass, block + 1), d_below_TD));
  }
  return absl::OkStatus();
}

absl::Status GptStage::BackwardWeight(int microbatch, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  if (spec_.last) {
    output_->Ready(compute);
    final_norm_->Ready(compute);
  }
  for (size_t block = blocks_.size(); block-- > 0;) {
    RETURN_IF_ERROR(blocks_[block]->BackwardWeight(pass, StreamGradient(pass, block + 1)));
  }
  if (!spec_.first) return absl::OkStatus();
  return embedding_->BackwardWeight(pass, Tokens(microbatch).tokens, StreamGradient(pass, 0));
}

absl::StatusOr<TensorView> GptStage::Logits(int microbatch, StreamView compute) {
  if (!spec_.first || !spec_.last) {
    return absl::FailedPreconditionError(
        "logits want a model whose only stage is on this rank; this one is stage " +
        std::to_string(spec_.stage) + " of a pipeline: lay it out with pp 1");
  }
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, {}, {}, pass));
  return output_->Logits(final_norm_->y_TD(pass.slot), compute);
}

}  // namespace muster::models
