#include "models/gpt.h"

#include <utility>

#include "kernels/ops/balance.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/rope.h"
#include "models/block.h"
#include "models/config.h"
#include "models/embedding.h"
#include "models/layer.h"
#include "models/norm.h"
#include "models/output.h"

namespace muster::models {
namespace {

bool UsesBias(const ModelConfig& config) {
  return config.has_moe() && config.moe().bias_update_rate() > 0;
}
bool UsesLoad(const ModelConfig& config) {
  return config.has_moe() && config.moe().aux_loss() > 0 && config.moe().aux_level() == BATCH;
}

class WholeGpt : public Gpt {
 public:
  WholeGpt(const ModelConfig& config, const StageShape& shape, const parallel::Mesh& mesh,
           parallel::ParameterList& parameters);
  void PlanMemory(ArenaPlan& plan) override;
  void Initialise(const parallel::ParameterList& parameters, parallel::ParameterHooks& hooks,
                  StreamView compute) override;
  void BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                 StreamView compute) override;

  absl::Status Forward(int microbatch, TensorView in, TensorView out, StreamView compute) override;
  absl::Status Backward(int microbatch, TensorView d_out, TensorView d_in,
                        StreamView compute) override;
  absl::Status BackwardInput(int microbatch, TensorView d_out, TensorView d_in,
                             StreamView compute) override;
  absl::Status BackwardWeight(int microbatch, StreamView compute) override;

  absl::Status Evaluate(int microbatch, StreamView compute) override;
  absl::StatusOr<TensorView> Logits(int microbatch, StreamView compute) override;
  void UpdateBalance(TensorView global_load, StreamView compute) override;
  const StepFacts& facts() const override { return facts_; }
  std::vector<Buffer> Buffers() const override;

 private:
  Pass PassOf(int microbatch, StreamView compute) const;
  const MicrobatchTokens& Tokens(int microbatch) const {
    return microbatches_[static_cast<size_t>(microbatch)];
  }
  // Embedding to final norm, whose y is what the output projection reads.
  absl::Status RunBlocks(int microbatch, const Pass& pass);
  void PlanBalance(ArenaPlan& plan);
  // The gradient of the residual stream below block `block`, or above the last one.
  TensorView& StreamGradient(const Pass& pass, size_t block);
  TensorView CrossEntropyLoss() const { return facts_.losses.Slice(0, 0, 1); }

  StageContext context_;
  BalanceState balance_;
  TensorView rope_table_;  // [max positions, C / 2, 2]
  // In the order of the forward, which is that of the parameters.
  Embedding embedding_;
  std::vector<std::unique_ptr<Block>> blocks_;
  NormLayer final_norm_;
  Output output_;

  StepFacts facts_;
  std::vector<MicrobatchTokens> microbatches_;
  double loss_scale_ = 0;
  TensorView delta_TD_;  // scratch
  // [gradient slots][blocks + 1] with split_backward, where layers read them again for their
  // weights; else one that each block overwrites.
  std::vector<std::vector<TensorView>> d_stream_TD_;
};

std::vector<std::unique_ptr<Block>> MakeBlocks(StageContext& context, const TensorView& rope_table,
                                               const BalanceState& balance) {
  std::vector<std::unique_ptr<Block>> blocks;
  int moe_layer = 0;
  for (int layer = 0; layer < context.config.layers(); ++layer) {
    blocks.push_back(std::make_unique<Block>(context, layer, moe_layer, rope_table, balance));
    moe_layer += IsMoeLayer(context.config, layer);
  }
  return blocks;
}

WholeGpt::WholeGpt(const ModelConfig& config, const StageShape& shape, const parallel::Mesh& mesh,
                   parallel::ParameterList& parameters)
    : context_{.config = config, .shape = shape, .mesh = &mesh, .building = &parameters},
      embedding_(context_),
      blocks_(MakeBlocks(context_, rope_table_, balance_)),
      final_norm_(context_, "norm"),
      output_(context_, config.tied_embeddings() ? &embedding_.table() : nullptr),
      d_stream_TD_(static_cast<size_t>(context_.num_gradient_slots()),
                   std::vector<TensorView>(shape.split_backward ? blocks_.size() + 1 : 1)) {
  context_.building = nullptr;
}

void WholeGpt::PlanBalance(ArenaPlan& plan) {
  const ModelConfig& config = context_.config;
  const kernels::Shape shape = {NumMoeLayers(config), config.moe().experts()};
  const DType accumulator = context_.accumulator();
  plan.Add(&facts_.expert_load, "expert_load", DType::kInt64, shape, Lifetime::kPersistent);
  plan.Add(&facts_.dropped, "dropped", DType::kInt64, {shape[0]}, Lifetime::kPersistent);
  if (UsesBias(config)) {
    plan.Add(&balance_.bias_LE, "balance_bias", accumulator, shape, Lifetime::kPersistent);
  }
  if (UsesLoad(config)) {
    plan.Add(&balance_.load_LE, "balance_load", accumulator, shape, Lifetime::kPersistent);
  }
}

void WholeGpt::PlanMemory(ArenaPlan& plan) {
  const ModelConfig& config = context_.config;
  const StageShape& shape = context_.shape;
  plan.Add(&facts_.losses, "losses", DType::kFloat64, {3}, Lifetime::kPersistent);
  if (config.has_moe()) PlanBalance(plan);
  if (config.position() == ROPE) {
    plan.Add(&rope_table_, "rope_table", context_.accumulator(),
             {config.max_positions(), config.head_size() / 2, 2}, Lifetime::kPersistent);
  }
  const ArenaPlan::ScratchScope scratch(plan);
  const kernels::Shape stream_shape = {shape.stream_tokens(), config.hidden()};
  plan.Add(&delta_TD_, "delta", shape.dtype, stream_shape, Lifetime::kScratch);
  for (size_t slot = 0; slot < d_stream_TD_.size(); ++slot) {
    for (TensorView& d_stream_TD : d_stream_TD_[slot]) {
      plan.Add(&d_stream_TD, SlotName("d_stream", static_cast<int>(slot)), shape.dtype,
               stream_shape, context_.gradient_lifetime());
    }
  }
  embedding_.PlanMemory(plan);
  for (const std::unique_ptr<Block>& block : blocks_) block->PlanMemory(plan);
  final_norm_.PlanMemory(plan);
  output_.PlanMemory(plan);
}

void WholeGpt::Initialise(const parallel::ParameterList& parameters,
                          parallel::ParameterHooks& hooks, StreamView compute) {
  const ModelConfig& config = context_.config;
  context_.parameters = &parameters;
  context_.hooks = &hooks;
  context_.compute = compute;
  balance_.losses = facts_.losses.Slice(0, 1, 3);
  balance_.expert_load_LE = facts_.expert_load;
  balance_.dropped_L = facts_.dropped;
  if (rope_table_) {
    kernels::RopeTable({.table = rope_table_, .theta = config.rope_theta()}, compute);
  }
  if (balance_.bias_LE) kernels::Fill({.x = balance_.bias_LE, .value = 0}, compute);
  if (balance_.load_LE) {
    // Until a step has been counted, experts pass as evenly loaded.
    const double even = static_cast<double>(config.moe().top_k()) / config.moe().experts();
    kernels::Fill({.x = balance_.load_LE, .value = even}, compute);
  }
}

void WholeGpt::BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                         StreamView compute) {
  for (const MicrobatchTokens& batch : microbatches) {
    for (const TensorView& ids : {batch.tokens, batch.targets, batch.positions}) {
      MUSTER_CHECK(ids.dtype == DType::kInt32 &&
                   ids.shape == kernels::Shape({context_.shape.tokens()}))
          << "a microbatch wants int32 [" << context_.shape.tokens() << "], found "
          << ids.ToString();
    }
  }
  MUSTER_CHECK(global_valid_tokens > 0) << "a step without a single target";
  microbatches_ = std::move(microbatches);
  loss_scale_ = 1.0 / static_cast<double>(global_valid_tokens);
  kernels::FillZeroAsync(facts_.losses, compute);
  if (facts_.expert_load) {
    kernels::FillZeroAsync(facts_.expert_load, compute);
    kernels::FillZeroAsync(facts_.dropped, compute);
  }
}

Pass WholeGpt::PassOf(int microbatch, StreamView compute) const {
  MUSTER_CHECK(microbatch >= 0 && microbatch < static_cast<int>(microbatches_.size()))
      << "microbatch " << microbatch << " of " << microbatches_.size();
  return {.slot = microbatch % context_.shape.num_slots,
          .positions = Tokens(microbatch).positions,
          .compute = compute};
}

TensorView& WholeGpt::StreamGradient(const Pass& pass, size_t block) {
  std::vector<TensorView>& gradients =
      d_stream_TD_[static_cast<size_t>(context_.GradientSlot(pass.slot))];
  return gradients[gradients.size() > 1 ? block : 0];
}

absl::Status WholeGpt::RunBlocks(int microbatch, const Pass& pass) {
  TensorView h_TD = blocks_.front()->input_TD(pass.slot), delta_TD;
  RETURN_IF_ERROR(embedding_.Forward(pass, Tokens(microbatch).tokens, h_TD));
  for (const std::unique_ptr<Block>& block : blocks_) {
    RETURN_IF_ERROR(block->Forward(pass, h_TD, delta_TD, delta_TD_));
    h_TD = block->h_TD(pass.slot);
    delta_TD = delta_TD_;
  }
  final_norm_.Forward(pass, h_TD, delta_TD);
  return absl::OkStatus();
}

absl::Status WholeGpt::Forward(int microbatch, TensorView, TensorView, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, pass));
  return output_.ForwardBackward(final_norm_.y_TD(pass.slot), Tokens(microbatch).targets,
                                 loss_scale_, CrossEntropyLoss(), compute);
}

absl::Status WholeGpt::Backward(int microbatch, TensorView, TensorView, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  const TensorView d_TD = StreamGradient(pass, blocks_.size());
  output_.Ready(compute);
  final_norm_.Backward(pass, final_norm_.y_TD(pass.slot), {}, d_TD);
  final_norm_.Ready(compute);
  for (size_t block = blocks_.size(); block-- > 0;) {
    RETURN_IF_ERROR(blocks_[block]->Backward(pass, d_TD));
  }
  return embedding_.BackwardWeight(pass, Tokens(microbatch).tokens, d_TD);
}

absl::Status WholeGpt::BackwardInput(int microbatch, TensorView, TensorView, StreamView compute) {
  if (!context_.shape.split_backward) {
    return absl::FailedPreconditionError(
        "BackwardInput was called of a stage planned for Backward; set "
        "StageShape::split_backward for this schedule");
  }
  const Pass pass = PassOf(microbatch, compute);
  final_norm_.Backward(pass, final_norm_.y_TD(pass.slot), {}, StreamGradient(pass, blocks_.size()));
  for (size_t block = blocks_.size(); block-- > 0;) {
    RETURN_IF_ERROR(blocks_[block]->BackwardInput(pass, StreamGradient(pass, block + 1),
                                                  StreamGradient(pass, block)));
  }
  return absl::OkStatus();
}

absl::Status WholeGpt::BackwardWeight(int microbatch, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  output_.Ready(compute);
  final_norm_.Ready(compute);
  for (size_t block = blocks_.size(); block-- > 0;) {
    RETURN_IF_ERROR(blocks_[block]->BackwardWeight(pass, StreamGradient(pass, block + 1)));
  }
  return embedding_.BackwardWeight(pass, Tokens(microbatch).tokens, StreamGradient(pass, 0));
}

absl::Status WholeGpt::Evaluate(int microbatch, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, pass));
  return output_.Forward(final_norm_.y_TD(pass.slot), Tokens(microbatch).targets, loss_scale_,
                         CrossEntropyLoss(), compute);
}

absl::StatusOr<TensorView> WholeGpt::Logits(int microbatch, StreamView compute) {
  const Pass pass = PassOf(microbatch, compute);
  RETURN_IF_ERROR(RunBlocks(microbatch, pass));
  return output_.Logits(final_norm_.y_TD(pass.slot), compute);
}

void WholeGpt::UpdateBalance(TensorView global_load, StreamView compute) {
  if (!balance_.load_LE && !balance_.bias_LE) return;
  kernels::UpdateBalance({.counts = global_load,
                          .load = balance_.load_LE,
                          .bias = balance_.bias_LE,
                          .top_k = context_.config.moe().top_k(),
                          .rate = context_.config.moe().bias_update_rate()},
                         compute);
}

std::vector<Gpt::Buffer> WholeGpt::Buffers() const {
  std::vector<Buffer> buffers;
  int row = 0;
  for (int layer = 0; layer < context_.config.layers(); ++layer) {
    if (!IsMoeLayer(context_.config, layer)) continue;
    const std::string prefix = "layers." + std::to_string(layer) + ".moe.";
    const auto add = [&](const char* name, const TensorView& rows) {
      if (!rows) return;
      buffers.push_back({prefix + name, rows.Slice(0, row, row + 1).Reshape({rows.shape[1]})});
    };
    add("balance_bias", balance_.bias_LE);
    add("balance_load", balance_.load_LE);
    ++row;
  }
  return buffers;
}

}  // namespace

std::unique_ptr<Gpt> Gpt::Create(const ModelConfig& config, const StageShape& shape,
                                 const parallel::Mesh& mesh, parallel::ParameterList& parameters) {
  const parallel::MeshDegrees& degrees = mesh.degrees();
  MUSTER_CHECK_EQ(degrees.pp, 1) << "the model is not sharded over pp";
  MUSTER_CHECK(!config.has_moe() || shape.stream_ranks == degrees.tp)
      << "experts want sequence parallelism; found mesh " << degrees.ToString();
  MUSTER_CHECK(shape.num_slots >= 1 && shape.tokens() > 0);
  MUSTER_CHECK((shape.stream_ranks == 1 || shape.stream_ranks == degrees.tp) &&
               shape.tokens() % shape.stream_ranks == 0)
      << shape.tokens() << " tokens over " << shape.stream_ranks << " ranks of mesh "
      << degrees.ToString();
  return std::make_unique<WholeGpt>(config, shape, mesh, parameters);
}

}  // namespace muster::models
