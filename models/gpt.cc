#include "models/gpt.h"

#include <utility>

#include "kernels/ops/balance.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/rope.h"
#include "models/config.h"
#include "models/gpt_stage.h"

namespace muster::models {
namespace {

bool UsesBias(const ModelConfig& config) {
  return config.has_moe() && config.moe().bias_update_rate() > 0;
}
bool UsesLoad(const ModelConfig& config) {
  return config.has_moe() && config.moe().aux_loss() > 0 && config.moe().aux_level() == BATCH;
}

// The stages of one rank.
class StagedGpt : public Gpt {
 public:
  StagedGpt(const ModelConfig& config, const StageShape& shape,
            const std::vector<StageSpec>& stages, const parallel::Mesh& mesh,
            parallel::ParameterList& parameters);
  void PlanMemory(ArenaPlan& plan) override;
  void Initialise(const parallel::ParameterList& parameters, parallel::ParameterHooks& hooks,
                  StreamView compute) override;
  void BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                 StreamView compute, Extent extent) override;

  absl::Status Forward(int stage, int microbatch, TensorView in, TensorView out,
                       StreamView compute) override {
    return Of(stage).Forward(microbatch, in, out, compute);
  }
  absl::Status Evaluate(int stage, int microbatch, TensorView in, TensorView out,
                        StreamView compute) override {
    return Of(stage).Evaluate(microbatch, in, out, compute);
  }
  absl::Status Backward(int stage, int microbatch, TensorView d_out, TensorView d_in,
                        StreamView compute) override {
    return Of(stage).Backward(microbatch, d_out, d_in, compute);
  }
  absl::Status BackwardInput(int stage, int microbatch, TensorView d_out, TensorView d_in,
                             StreamView compute) override {
    return Of(stage).BackwardInput(microbatch, d_out, d_in, compute);
  }
  absl::Status BackwardWeight(int stage, int microbatch, StreamView compute) override {
    return Of(stage).BackwardWeight(microbatch, compute);
  }
  absl::StatusOr<TensorView> Logits(int microbatch, StreamView compute) override {
    return stages_.front()->Logits(microbatch, compute);
  }
  void UpdateBalance(TensorView global_load, StreamView compute) override;
  const StepFacts& facts() const override { return facts_; }
  std::vector<Buffer> Buffers() const override;

 private:
  void PlanBalance(ArenaPlan& plan);
  GptStage& Of(int stage);

  const ModelConfig config_;
  const StageShape shape_;
  RankState rank_;
  std::vector<std::unique_ptr<GptStage>> stages_;
  StepFacts facts_;
};

StagedGpt::StagedGpt(const ModelConfig& config, const StageShape& shape,
                     const std::vector<StageSpec>& stages, const parallel::Mesh& mesh,
                     parallel::ParameterList& parameters)
    : config_(config), shape_(shape) {
  const Weight* table = nullptr;
  for (const StageSpec& spec : stages) {
    stages_.push_back(
        std::make_unique<GptStage>(config_, shape_, spec, mesh, rank_, table, parameters));
    if (spec.first) table = stages_.back()->table();
  }
}

GptStage& StagedGpt::Of(int stage) {
  for (const std::unique_ptr<GptStage>& mine : stages_) {
    if (mine->spec().stage == stage) return *mine;
  }
  MUSTER_CHECK(false) << "stage " << stage << " is not on this rank";
  return *stages_.front();
}

void StagedGpt::PlanBalance(ArenaPlan& plan) {
  const kernels::Shape shape = {NumMoeLayers(config_), config_.moe().experts()};
  const DType accumulator = kernels::AccumulatorDType(shape_.dtype);
  BalanceState& balance = rank_.balance;
  plan.Add(&facts_.expert_load, "expert_load", DType::kInt64, shape, Lifetime::kPersistent);
  plan.Add(&facts_.dropped, "dropped", DType::kInt64, {shape[0]}, Lifetime::kPersistent);
  plan.Add(&facts_.expert_rows, "expert_rows", DType::kInt64, {1}, Lifetime::kPersistent);
  if (UsesBias(config_)) {
    plan.Add(&balance.bias_LE, "balance_bias", accumulator, shape, Lifetime::kPersistent);
  }
  if (UsesLoad(config_)) {
    plan.Add(&balance.load_LE, "balance_load", accumulator, shape, Lifetime::kPersistent);
  }
}

void StagedGpt::PlanMemory(ArenaPlan& plan) {
  plan.Add(&facts_.losses, "losses", DType::kFloat64, {3}, Lifetime::kPersistent);
  if (config_.has_moe()) PlanBalance(plan);
  if (config_.position() == ROPE) {
    plan.Add(&rank_.rope_table, "rope_table", kernels::AccumulatorDType(shape_.dtype),
             {config_.max_positions(), config_.head_size() / 2, 2}, Lifetime::kPersistent);
  }
  for (const std::unique_ptr<GptStage>& stage : stages_) stage->PlanMemory(plan);
}

void StagedGpt::Initialise(const parallel::ParameterList& parameters,
                           parallel::ParameterHooks& hooks, StreamView compute) {
  for (const std::unique_ptr<GptStage>& stage : stages_)
    stage->Initialise(parameters, hooks, compute);
  rank_.losses = facts_.losses;
  BalanceState& balance = rank_.balance;
  balance.losses = facts_.losses.Slice(0, 1, 3);
  balance.expert_load_LE = facts_.expert_load;
  balance.dropped_L = facts_.dropped;
  balance.expert_rows = facts_.expert_rows;
  if (rank_.rope_table) {
    kernels::RopeTable({.table = rank_.rope_table, .theta = config_.rope_theta()}, compute);
  }
  if (balance.bias_LE) kernels::Fill({.x = balance.bias_LE, .value = 0}, compute);
  if (balance.load_LE) {
    // Until a step has been counted, experts pass as evenly loaded.
    const double even = static_cast<double>(config_.moe().top_k()) / config_.moe().experts();
    kernels::Fill({.x = balance.load_LE, .value = even}, compute);
  }
}

void StagedGpt::BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                          StreamView compute, Extent extent) {
  for (const MicrobatchTokens& batch : microbatches) {
    for (const TensorView& ids : {batch.tokens, batch.targets, batch.positions}) {
      MUSTER_CHECK(ids.dtype == DType::kInt32 && ids.shape == kernels::Shape({shape_.tokens()}))
          << "a microbatch wants int32 [" << shape_.tokens() << "], found " << ids.ToString();
    }
  }
  MUSTER_CHECK(global_valid_tokens > 0) << "a step without a single target";
  rank_.microbatches = std::move(microbatches);
  rank_.extent = extent;
  rank_.loss_scale = 1.0 / static_cast<double>(global_valid_tokens);
  kernels::FillZeroAsync(facts_.losses, compute);
  if (facts_.expert_load) {
    kernels::FillZeroAsync(facts_.expert_load, compute);
    kernels::FillZeroAsync(facts_.dropped, compute);
    kernels::FillZeroAsync(facts_.expert_rows, compute);
  }
}

void StagedGpt::UpdateBalance(TensorView global_load, StreamView compute) {
  if (!rank_.balance.load_LE && !rank_.balance.bias_LE) return;
  kernels::UpdateBalance({.counts = global_load,
                          .load = rank_.balance.load_LE,
                          .bias = rank_.balance.bias_LE,
                          .top_k = config_.moe().top_k(),
                          .rate = config_.moe().bias_update_rate()},
                         compute);
}

std::vector<Gpt::Buffer> StagedGpt::Buffers() const {
  std::vector<Buffer> buffers;
  int row = 0;
  for (int layer = 0; layer < config_.layers(); ++layer) {
    if (!IsMoeLayer(config_, layer)) continue;
    const std::string prefix = "layers." + std::to_string(layer) + ".moe.";
    const auto add = [&](const char* name, const TensorView& rows) {
      if (!rows) return;
      buffers.push_back({prefix + name, rows.Slice(0, row, row + 1).Reshape({rows.shape[1]})});
    };
    add("balance_bias", rank_.balance.bias_LE);
    add("balance_load", rank_.balance.load_LE);
    ++row;
  }
  return buffers;
}

}  // namespace

std::unique_ptr<Gpt> Gpt::Create(const ModelConfig& config, const StageShape& shape,
                                 const parallel::Mesh& mesh, parallel::ParameterList& parameters,
                                 const std::vector<StageSpec>& stages) {
  const parallel::MeshDegrees& degrees = mesh.degrees();
  MUSTER_CHECK(!config.has_moe() || shape.tokens() % degrees.tp == 0)
      << shape.tokens() << " tokens are routed over mesh " << degrees.ToString();
  MUSTER_CHECK(shape.num_slots >= 1 && shape.tokens() > 0);
  MUSTER_CHECK((shape.stream_ranks == 1 || shape.stream_ranks == degrees.tp) &&
               shape.tokens() % shape.stream_ranks == 0)
      << shape.tokens() << " tokens over " << shape.stream_ranks << " ranks of mesh "
      << degrees.ToString();
  MUSTER_CHECK(degrees.pp == 1 || !stages.empty()) << "a pipeline without its stages";
  const StageSpec whole = {.num_layers = config.layers(),
                           .num_slots = shape.num_slots,
                           .num_gradient_slots = shape.num_gradient_slots};
  return std::make_unique<StagedGpt>(
      config, shape, stages.empty() ? std::vector<StageSpec>{whole} : stages, mesh, parameters);
}

}  // namespace muster::models
