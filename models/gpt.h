#pragma once
// A GPT, dense or Mixture-of-Experts, as one pipeline stage: token embedding, blocks, final norm,
// output projection and loss. Whole models on one rank are the stage of a pipeline of one.
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
#include "models/model.pb.h"
#include "models/stage_shape.h"
#include "parallel/mesh/mesh.h"
#include "parallel/mesh/parameter.h"
#include "parallel/pp/stage.h"

namespace muster::models {

// A microbatch's input on the device; contiguous int32 [T], one sequence after another.
struct MicrobatchTokens {
  kernels::TensorView tokens, targets, positions;
};

// Sums over this rank's tokens of one step (or evaluation), on the device in stream order.
struct StepFacts {
  kernels::TensorView losses;       // fp64 [3]: cross-entropy, auxiliary, z; already divided by
                                    // the global batch's tokens: ranks add up to the loss
  kernels::TensorView expert_load;  // int64 [MoE layers, experts]: choices kept; empty if dense
  kernels::TensorView dropped;      // int64 [MoE layers]: choices dropped by capacity
};

class Gpt : public parallel::Stage {
 public:
  // `config` has passed runtime validation. Adds all parameters to `parameters`.
  static std::unique_ptr<Gpt> Create(const ModelConfig& config, const StageShape& shape,
                                     const parallel::Mesh& mesh,
                                     parallel::ParameterList& parameters);
  // Reserves activations, scratch and counters.
  virtual void PlanMemory(kernels::ArenaPlan& plan) = 0;
  // After the arena and the buckets are bound: tables and counters. `hooks` outlives the model.
  virtual void Initialise(const parallel::ParameterList& parameters,
                          parallel::ParameterHooks& hooks, kernels::StreamView compute) = 0;

  // Starts a step: zeroes the facts. Gradients must be zero before the first Forward, which adds to
  // that of the output projection. The tensors of `microbatches` must stay valid during the step;
  // `global_valid_tokens` counts the targets >= 0 of the global batch.
  virtual void BeginStep(std::vector<MicrobatchTokens> microbatches, int64_t global_valid_tokens,
                         kernels::StreamView compute) = 0;
  // Forward only: adds the cross-entropy of the microbatch to the facts and keeps nothing. For
  // evaluation: the balancing losses, which are computed with their gradients, stay 0. No
  // microbatch may be alive.
  virtual absl::Status Evaluate(int microbatch, kernels::StreamView compute) = 0;
  // Ends a step: from the global load counts (int64 [MoE layers, experts], summed over the world)
  // updates the balance bias and the batch-level load of the next step.
  virtual void UpdateBalance(kernels::TensorView global_load, kernels::StreamView compute) = 0;
  // Forward only, of one microbatch: the logits [T, V], valid until the next call. For sampling.
  // Errors: StageShape::logits_bytes has no room for all of them.
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
