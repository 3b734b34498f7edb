#pragma once
// What the layers of a stage have in common. A layer adds its parameters in its constructor, plans
// its memory into views that stay at their address (layers neither move nor copy), and then runs
// three passes, each of one microbatch: Forward, BackwardInput, BackwardWeight. What a microbatch
// needs for its backward lies in its slot.
//
// Shape suffixes: T tokens of the microbatch (B sequences of S), D hidden, H query heads, K
// key/value heads, C head size, F feed-forward hidden, V vocabulary, E experts, R routed rows,
// k experts per token, P ranks of the expert group. H, K, F and V are this rank's where layers are
// cut over the tensor group; with sequence parallelism the T of the residual stream, and of what
// layers take and give, is shape.stream_tokens().
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "kernels/base/error.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/arena.h"
#include "models/model.pb.h"
#include "models/stage_shape.h"
#include "parallel/mesh/mesh.h"
#include "parallel/mesh/parameter.h"
#include "parallel/tp/tensor_parallel.h"

namespace muster::models {

using kernels::ArenaPlan;
using kernels::DType;
using kernels::Lifetime;
using kernels::StreamView;
using kernels::TensorView;

// What all layers of a stage share; owned by the stage.
struct StageContext {
  ModelConfig config;
  StageShape shape;
  const parallel::Mesh* mesh = nullptr;
  parallel::Tie table_tie = parallel::Tie::kNone;       // of the embedding's table
  parallel::ParameterList* building = nullptr;          // during construction only
  const parallel::ParameterList* parameters = nullptr;  // from Initialise on: bound to buckets
  parallel::ParameterHooks* hooks = nullptr;            // from Initialise on
  StreamView compute;                                   // from Initialise on; of all passes

  parallel::TensorParallel tensor() const {
    return {mesh->Group(parallel::Axis::kTensor), shape.stream_ranks > 1};
  }
  // This rank's part of `number`, which the tensor group divides.
  int64_t PartOf(int64_t number) const { return number / mesh->degrees().tp; }
  // The placement of a dense weight that is cut over no axis.
  parallel::Placement Replicated() const {
    return {.replica_axis =
                mesh->degrees().tp > 1 ? parallel::Axis::kStage : parallel::Axis::kDenseReplica};
  }

  DType accumulator() const { return kernels::AccumulatorDType(shape.dtype); }
  // Gradients that BackwardWeight reads: with a split backward they wait in their microbatch's
  // gradient slot; else the two passes follow each other, and all layers share the bytes.
  int num_gradient_slots() const {
    if (!shape.split_backward) return 1;
    return shape.num_gradient_slots > 0 ? shape.num_gradient_slots : shape.num_slots;
  }
  Lifetime gradient_lifetime() const {
    return shape.split_backward ? Lifetime::kActivation : Lifetime::kScratch;
  }
  // Sets of activations that a recomputed module shares (models/activation_slots.h).
  int num_recompute_sets() const { return shape.split_backward ? 1 + num_gradient_slots() : 1; }
};

// One pass of one microbatch.
struct Pass {
  int slot = 0;
  int gradient_slot = 0;
  TensorView positions;  // int32 [T]
  StreamView compute;
  int recompute_set = 0;  // of recomputed activations; see models/activation_slots.h
};
// The same pass, in a backward.
inline Pass BackwardPass(const StageContext& stage, Pass pass) {
  if (stage.shape.split_backward) pass.recompute_set = 1 + pass.gradient_slot;
  return pass;
}

// "layers.3.mlp.gate_up, slot 1": the name of a block of the memory plan.
inline std::string SlotName(const std::string& name, int slot) {
  return name + ", slot " + std::to_string(slot);
}

// One parameter, as its layer sees it.
class Weight {
 public:
  struct Options {
    parallel::InitRule init;
    parallel::Placement placement = {};  // no shards: replicated
    bool weight_decay = true;
    bool writes_gradient = false;  // the layer asks for NextContribution
  };
  Weight(StageContext& stage, std::string global_name, kernels::Shape shape, Options options)
      : stage_(stage),
        id_(stage.building->Add(
            std::move(global_name), shape,
            options.placement.shards.empty() ? stage.Replicated() : std::move(options.placement),
            options.init, options.weight_decay, options.writes_gradient)) {}

  // For an operator enqueued next (and one more weight beside it): this step's values.
  TensorView Use(StreamView compute) const {
    stage_.hooks->Use(id_, compute);
    return (*stage_.parameters)[id_].weight;
  }
  TensorView value() const { return Use(stage_.compute); }
  // For an operator enqueued next, which adds to it, or, if not `adds`, writes all of it.
  struct Contribution {
    TensorView gradient;
    bool adds;
  };
  Contribution NextContribution() const {
    const bool adds = stage_.hooks->Contribute(id_, stage_.compute);
    return {(*stage_.parameters)[id_].gradient, adds};
  }
  // For an operator enqueued next, which adds to it. Not with Options::writes_gradient.
  TensorView gradient() const {
    const Contribution next = NextContribution();
    MUSTER_CHECK(next.adds) << "of a gradient that its layer writes";
    return next.gradient;
  }
  // Instead of that, on a rank that adds nothing where others of its replicas do: the gradient's
  // buffers then come and go alike on all of them.
  void AddNothing() const { stage_.hooks->Contribute(id_, stage_.compute); }
  const parallel::LocalSlice& slice() const { return (*stage_.parameters)[id_].slice; }
  // This microbatch's contributions to the gradient are all enqueued.
  void Ready(StreamView compute) const { stage_.hooks->Ready(id_, compute); }

 private:
  const StageContext& stage_;
  parallel::ParameterId id_;
};

// A layer from [T, D] to [T, D].
class Layer {
 public:
  Layer() = default;
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  virtual void PlanMemory(ArenaPlan& plan) = 0;
  virtual absl::Status Forward(const Pass& pass, TensorView x_TD, TensorView y_TD) = 0;
  // Where the module is recomputed, before its BackwardInput: fills again what that and
  // BackwardWeight read. Else nothing.
  virtual absl::Status Recompute(const Pass& pass, TensorView x_TD) = 0;
  // Once for each Forward: it may overwrite what the forward kept.
  virtual absl::Status BackwardInput(const Pass& pass, TensorView d_y_TD, TensorView d_x_TD) = 0;
  // After BackwardInput, with the same x and d_y. Adds to the gradients and makes them Ready.
  virtual absl::Status BackwardWeight(const Pass& pass, TensorView x_TD, TensorView d_y_TD) = 0;
};

// Scratch for all rows of a layer's input and output (and of their gradients) where the stream
// holds only some of them: null without sequence parallelism.
struct AllRows {
  TensorView x_TD, y_TD;
  void AddTo(ArenaPlan& plan, const std::string& name, const StageContext& stage);
  // All rows of d_y for BackwardWeight: BackwardInput, which has just run, left them in y_TD; they
  // are gathered again where the schedule runs the two passes apart.
  absl::StatusOr<TensorView> OutputGradient(const StageContext& stage, TensorView d_y_TD,
                                            StreamView compute) const;
};

}  // namespace muster::models
