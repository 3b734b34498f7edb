#pragma once
// A GPT, dense or Mixture-of-Experts, as far as it is on one rank: the pipeline stages that the
// rank holds, of token embedding, blocks, final norm, output projection and loss. A whole model on
// one rank is the stage of a pipeline of one.
//
// Order of use: construct (adds the parameters), plan memory, allocate the arena, Initialise, then
// per step BeginStep and the runner's passes, then read the facts.
//
// Loss = sum over valid tokens of the global batch / their number, plus the balancing losses, which
// are means over the global batch too: no layout or microbatching changes it.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "models/gpt_stage.h"
#include "models/model.pb.h"
#include "models/stage_shape.h"
#include "parallel/mesh/mesh.h"
#include "parallel/mesh/parameter.h"
#include "parallel/pp/stage.h"

namespace muster::models {

// Sums over this rank's tokens of one step (or evaluation), on the device in stream order.
struct StepFacts {
  kernels::TensorView losses;       // fp64 [3]: cross-entropy, auxiliary, z; already divided by
                                    // the global batch's tokens: ranks add up to the loss
                                    // (0 for what is computed in other stages)
  kernels::TensorView expert_load;  // int64 [MoE layers, experts]: choices kept; empty if dense.
                                    // All MoE layers of the model, 0 where not of this rank
  kernels::TensorView dropped;      // int64 [MoE layers]: choices dropped by capacity
  kernels::TensorView expert_rows;  // int64 [1]: rows that this rank's experts worked on, in all
                                    // MoE layers; empty if dense. Not to be added over ranks: each
                                    // rank of a tensor group works on a part of each row
};

class Gpt : public parallel::Stage {
 public:
  // `config` has passed runtime validation. Adds this rank's parameters to `parameters`, stage by
  // stage. `stages` are those of the rank, ascending; empty: the whole model is one, with
  // shape.num_slots slots.
  static std::unique_ptr<Gpt> Create(const ModelConfig& config, const StageShape& shape,
                                     const parallel::Mesh& mesh,
                                     parallel::ParameterList& parameters,
                                     const std::vector<StageSpec>& stages = {});
  // Reserves activations, scratch and counters.
  virtual void PlanMemory(kernels::ArenaPlan& plan) = 0;
  // After the arena and the buckets are bound: tables and counters. `hooks` outlives the model.
  virtual void Initialise(const parallel::ParameterList& parameters,
                          parallel::ParameterHooks& hooks, kernels::StreamView compute) = 0;

  // Starts a step: zeroes the facts. Gradients must be zero before the first Forward, which adds to
  // that of the output projection. The tensors of `microbatches` must stay valid during the step;
  // `global_valid_tokens` counts the targets >= 0 of the global batch.
  // With kOneOfAKind its results mean nothing.
  virtual void BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                         kernels::StreamView compute, Extent extent = Extent::kAll) = 0;
  // Evaluate, of parallel::Stage, adds the cross-entropy of the microbatch to the facts; the
  // balancing losses, which are computed with their gradients, stay 0.

  // Ends a step: from the global load counts (int64 [MoE layers, experts], summed over the world)
  // updates the balance bias and the batch-level load of the next step.
  virtual void UpdateBalance(kernels::TensorView global_load, kernels::StreamView compute) = 0;
  // Forward only, of one microbatch: the logits [T, V], valid until the next call. For sampling.
  // Errors: StageShape::logits_bytes has no room for all of them; the model is in several stages.
  virtual absl::StatusOr<kernels::TensorView> Logits(int microbatch,
                                                     kernels::StreamView compute) = 0;

  virtual const StepFacts& facts() const = 0;
  // State that is no parameter but decides results: balance bias, batch-level load. By global name;
  // replicated on all ranks.
  struct Buffer {
    std::string global_name;
    kernels::TensorView tensor;
  };
  virtual std::vector<Buffer> Buffers() const = 0;
};

}  // namespace muster::models
