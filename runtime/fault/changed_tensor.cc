#include "runtime/fault/changed_tensor.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/device/memory.h"

namespace muster::runtime {
namespace {

using kernels::DType;
using kernels::TensorView;
using parallel::ParameterId;

const TensorView& PartOf(const parallel::OptimizerSlice& slice, StatePart part) {
  switch (part) {
    case StatePart::kWeight:
      return slice.weight;
    case StatePart::kMaster:
      return slice.master;
    case StatePart::kMoment1:
      return slice.moment1;
    case StatePart::kMoment2:
      break;
  }
  return slice.moment2;
}

// The bytes of a NaN, little-endian.
uint64_t NanBits(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 0x7fc0;
    case DType::kFloat64:
      return 0x7ff8000000000000;
    default:
      return 0x7fc00000;
  }
}

TensorView FindActivation(const kernels::ArenaPlan& memory, const std::string& name) {
  for (const kernels::ArenaPlan::Block& block : memory.blocks()) {
    const bool kept =
        block.lifetime == kernels::Lifetime::kActivation && block.shape.num_elements() > 0;
    if (kept && (name.empty() || block.name == name || absl::StartsWith(block.name, name + ","))) {
      return *block.bound;
    }
  }
  return {};
}

// What this rank updates of a parameter.
TensorView FindState(const RankTensors& tensors, const PlannedFault& plan) {
  for (const parallel::OptimizerSlice& slice : tensors.optimizer->Slices()) {
    const std::string& name = (*tensors.parameters)[slice.parameter].global_name;
    if (plan.tensor.empty() || name == plan.tensor) return PartOf(slice, plan.of);
  }
  return {};
}

// Null: it is not here, or not now.
TensorView Find(const RankTensors& tensors, const PlannedFault& plan) {
  if (plan.kind == FaultKind::kFlipActivation) return FindActivation(*tensors.memory, plan.tensor);
  const ParameterId id = TargetParameter(tensors, plan);
  if (plan.kind != FaultKind::kFlip) {
    return id < 0 ? TensorView() : (*tensors.parameters)[id].gradient;
  }
  const bool whole = plan.of == StatePart::kWeight && id >= 0 && (*tensors.parameters)[id].weight;
  return whole ? (*tensors.parameters)[id].weight : FindState(tensors, plan);
}

}  // namespace

ParameterId TargetParameter(const RankTensors& tensors, const PlannedFault& plan) {
  for (ParameterId id = 0; id < tensors.parameters->size(); ++id) {
    if (plan.tensor.empty() || (*tensors.parameters)[id].global_name == plan.tensor) return id;
  }
  return -1;
}

bool HasTarget(const RankTensors& tensors, const PlannedFault& plan) {
  const bool of_gradient = plan.kind == FaultKind::kNan || plan.kind == FaultKind::kFlipGradient;
  return of_gradient ? TargetParameter(tensors, plan) >= 0 : static_cast<bool>(Find(tensors, plan));
}

absl::Status ChangeTarget(const RankTensors& tensors, const PlannedFault& plan,
                          kernels::StreamView compute) {
  const TensorView tensor = Find(tensors, plan);
  if (!tensor) {
    return absl::FailedPreconditionError(absl::StrCat(
        "planned fault ", Name(plan.kind), " of ", plan.tensor.empty() ? "a tensor" : plan.tensor,
        ": this rank holds nothing of it just now"));
  }
  const int64_t bytes = kernels::SizeOf(tensor.dtype);
  uint64_t bits = NanBits(tensor.dtype);
  if (plan.kind != FaultKind::kNan) {
    bits = 0;
    kernels::CopyAsync(&bits, tensor.data, bytes, compute);
    RETURN_IF_ERROR(compute.Synchronize());
    bits ^= uint64_t{1} << (plan.bit % (8 * bytes));
  }
  kernels::CopyAsync(tensor.data, &bits, bytes, compute);
  return compute.Synchronize();
}

}  // namespace muster::runtime
