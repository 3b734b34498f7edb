#include "parallel/ep/capacity.h"

#include "kernels/ops/capacity.h"
#include "parallel/comm/collectives.h"

namespace muster::parallel {

using kernels::DType;
using kernels::Lifetime;
using kernels::StreamView;
using kernels::TensorView;

SequenceCapacity::SequenceCapacity(const CapacityShape& shape, const ProcessGroup& tensor,
                                   const ProcessGroup& context)
    : shape_(shape), tensor_(tensor), context_(context) {}

void SequenceCapacity::PlanMemory(kernels::ArenaPlan& plan, const std::string& name) {
  const int64_t rows = shape_.tokens * tensor_.size();
  const auto add = [&](TensorView* view, const char* what, kernels::Shape shape) {
    plan.Add(view, name + what, DType::kInt32, shape, Lifetime::kScratch);
  };
  if (tensor_.size() > 1) add(&stream_TK_, ".stream_experts", {rows, shape_.top_k});
  if (context_.size() > 1) add(&all_PTK_, ".all_experts", {context_.size(), rows, shape_.top_k});
  add(&admitted_TK_, ".admitted", {shape_.tokens, shape_.top_k});
}

absl::StatusOr<TensorView> SequenceCapacity::Admit(TensorView experts_TK,
                                                   StreamView compute) const {
  TensorView stream_TK = experts_TK;
  if (tensor_.size() > 1) {
    RETURN_IF_ERROR(AllGather(experts_TK, stream_TK_, tensor_, compute));
    stream_TK = stream_TK_;
  }
  TensorView all_PTK = stream_TK.Reshape({1, stream_TK.shape[0], shape_.top_k});
  if (context_.size() > 1) {
    RETURN_IF_ERROR(AllGather(stream_TK, all_PTK_, context_, compute));
    all_PTK = all_PTK_;
  }
  kernels::AdmitByCapacity({.all = all_PTK,
                            .out = admitted_TK_,
                            .num_experts = shape_.experts,
                            .sequence_tokens = shape_.sequence_tokens,
                            .capacity = shape_.capacity,
                            .rank = context_.rank(),
                            .first_row = tensor_.rank() * shape_.tokens},
                           compute);
  return admitted_TK_;
}

}  // namespace muster::parallel
