#include "parallel/mesh/parameter.h"

#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "kernels/ops/cast.h"

namespace muster::parallel {

ParameterId ParameterList::Add(std::string global_name, kernels::Shape global_shape,
                               Placement placement, InitRule init, bool weight_decay,
                               bool writes_gradient) {
  for (const Parameter& parameter : parameters_) {
    MUSTER_CHECK(parameter.global_name != global_name) << "two parameters named " << global_name;
  }
  Parameter parameter;
  parameter.slice = SliceOf(global_shape, placement, mesh_.coordinates(), mesh_.degrees());
  parameter.global_name = std::move(global_name);
  parameter.global_shape = global_shape;
  parameter.placement = std::move(placement);
  parameter.init = init;
  parameter.weight_decay = weight_decay;
  parameter.writes_gradient = writes_gradient;
  parameters_.push_back(std::move(parameter));
  return size() - 1;
}

namespace {

void InitializeBox(const Parameter& parameter, const Box& box, kernels::TensorView weight,
                   uint64_t seed, kernels::StreamView stream) {
  switch (parameter.init.kind) {
    case InitRule::Kind::kNormal:
      kernels::FillNormal({.x = weight,
                           .global_shape = parameter.global_shape,
                           .begin = box.begin,
                           .key = kernels::MakePhiloxKey(seed, parameter.global_name),
                           .std = parameter.init.std},
                          stream);
      break;
    case InitRule::Kind::kOnes:
      kernels::Fill({.x = weight, .value = 1}, stream);
      break;
    case InitRule::Kind::kZeros:
      kernels::Fill({.x = weight, .value = 0}, stream);
      break;
  }
}

}  // namespace

void InitializeWeight(const Parameter& parameter, uint64_t seed, kernels::StreamView stream) {
  MUSTER_CHECK(parameter.weight && parameter.weight.shape == parameter.slice.size)
      << parameter.global_name << " has weight " << parameter.weight.ToString() << ", wanted "
      << parameter.slice.size.ToString();
  const kernels::TensorView flat = parameter.weight.Reshape({parameter.weight.num_elements()});
  int64_t at = 0;
  for (const Box& box : parameter.slice.boxes) {
    const int64_t end = at + box.size.num_elements();
    InitializeBox(parameter, box, flat.Slice(0, at, end).Reshape(box.size), seed, stream);
    at = end;
  }
}

void InitializeWeights(const ParameterList& parameters, uint64_t seed, kernels::StreamView stream) {
  for (const Parameter& parameter : parameters) InitializeWeight(parameter, seed, stream);
}

}  // namespace muster::parallel
