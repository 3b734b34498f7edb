#pragma once
// A weight with its gradient, placement and initial values, known by its global name: the same name
// and the same values on every layout. Layers add their parameters to the list in forward order;
// the buckets (parallel/dp) give them memory, in backward order.
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/mesh/placement.h"

namespace muster::parallel {

struct InitRule {
  enum class Kind { kNormal, kOnes, kZeros } kind = Kind::kNormal;
  float std = 0.02f;
};

struct Parameter {
  std::string global_name;  // "layers.3.attention.qkv.weight"
  kernels::Shape global_shape;
  Placement placement;
  InitRule init;
  bool weight_decay = true;
  // The layer's first contribution to a step's gradient writes all of it, instead of adding.
  bool writes_gradient = false;
  LocalSlice slice;  // of this rank
  // Views into the bucket; without memory (null data) while a rank holds only its shard of it.
  kernels::TensorView weight;    // storage dtype
  kernels::TensorView gradient;  // accumulator dtype
};

using ParameterId = int;

class ParameterList {
 public:
  explicit ParameterList(const Mesh& mesh) : mesh_(mesh) {}
  // Computes the local slice. CHECKs that the name is new.
  ParameterId Add(std::string global_name, kernels::Shape global_shape, Placement placement,
                  InitRule init, bool weight_decay = true, bool writes_gradient = false);
  Parameter& operator[](ParameterId id) { return parameters_[static_cast<size_t>(id)]; }
  const Parameter& operator[](ParameterId id) const { return parameters_[static_cast<size_t>(id)]; }
  int size() const { return static_cast<int>(parameters_.size()); }
  auto begin() const { return parameters_.begin(); }
  auto end() const { return parameters_.end(); }
  const Mesh& mesh() const { return mesh_; }

 private:
  const Mesh& mesh_;
  std::vector<Parameter> parameters_;
};

// Writes a weight's initial values: a function of seed, global name and global index only.
void InitializeWeight(const Parameter& parameter, uint64_t seed, kernels::StreamView stream);
void InitializeWeights(const ParameterList& parameters, uint64_t seed, kernels::StreamView stream);

// What layers tell the data-parallel machinery while they run.
class ParameterHooks {
 public:
  virtual ~ParameterHooks() = default;
  // Before a layer reads a weight, in any pass: the parameter's view is there, and work enqueued
  // next on `compute` sees this step's values. It stays while one other weight is used.
  virtual void Use(ParameterId id, kernels::StreamView compute) = 0;
  // Before a layer contributes to a gradient: the parameter's view is there, for work enqueued
  // next. Returns whether that adds; if not, it writes all of the gradient
  // (Parameter::writes_gradient).
  virtual bool Contribute(ParameterId, kernels::StreamView) { return true; }
  // After all of this microbatch's contributions to a gradient have been enqueued on `compute`.
  virtual void Ready(ParameterId id, kernels::StreamView compute) = 0;
};

}  // namespace muster::parallel
