#include "models/output.h"

#include <algorithm>

#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"

namespace muster::models {
namespace {

using parallel::InitRule;

int64_t ChunkTokens(const StageContext& stage) {
  const int64_t token_bytes = stage.config.vocab_size() * kernels::SizeOf(stage.shape.dtype);
  return std::clamp<int64_t>(stage.shape.logits_bytes / token_bytes, 1, stage.shape.tokens());
}

TensorView Rows(const TensorView& x, int64_t begin, int64_t end) { return x.Slice(0, begin, end); }

}  // namespace

Output::Output(StageContext& stage, const Weight* tied)
    : stage_(stage), tied_(tied), chunk_tokens_(ChunkTokens(stage)) {
  if (tied == nullptr) {
    weight_.emplace(stage, "output.weight",
                    kernels::Shape{stage.config.vocab_size(), stage.config.hidden()},
                    Weight::Options{.init = {InitRule::Kind::kNormal, stage.config.init_std()}});
  }
}

void Output::PlanMemory(ArenaPlan& plan) {
  const ArenaPlan::ScratchScope scratch(plan);
  plan.Add(&logits_, "output.logits", stage_.shape.dtype,
           {chunk_tokens_, stage_.config.vocab_size()}, Lifetime::kScratch);
  plan.Add(&stats_, "output.stats", stage_.accumulator(), {chunk_tokens_, 3}, Lifetime::kScratch);
  plan.Add(&losses_, "output.losses", stage_.accumulator(), {chunk_tokens_}, Lifetime::kScratch);
}

void Output::Chunk(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                   StreamView compute) const {
  const int64_t T = y_TD.shape[0];
  const TensorView logits_TV = Rows(logits_, 0, T), stats_T3 = Rows(stats_, 0, T);
  const TensorView losses_T = Rows(losses_, 0, T);
  kernels::Matmul({.a = y_TD, .b = weight().value(), .c = logits_TV, .b_transposed = true},
                  compute);
  kernels::CrossEntropyStats({.logits = logits_TV, .targets = targets, .stats = stats_T3}, compute);
  kernels::CrossEntropyLoss({.stats = stats_T3, .targets = targets, .losses = losses_T}, compute);
  kernels::Sum({.x = losses_T, .out = loss, .scale = scale}, compute);
}

void Output::Forward(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                     StreamView compute) const {
  weight().Use(compute);
  for (int64_t begin = 0; begin < y_TD.shape[0]; begin += chunk_tokens_) {
    const int64_t end = std::min(begin + chunk_tokens_, y_TD.shape[0]);
    Chunk(Rows(y_TD, begin, end), Rows(targets, begin, end), scale, loss, compute);
  }
}

void Output::ForwardBackward(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                             StreamView compute) const {
  weight().Use(compute);
  for (int64_t begin = 0; begin < y_TD.shape[0]; begin += chunk_tokens_) {
    const int64_t end = std::min(begin + chunk_tokens_, y_TD.shape[0]);
    const TensorView y = Rows(y_TD, begin, end), chunk_targets = Rows(targets, begin, end);
    const TensorView logits = Rows(logits_, 0, end - begin);
    Chunk(y, chunk_targets, scale, loss, compute);
    kernels::CrossEntropyBackward({.logits = logits,
                                   .targets = chunk_targets,
                                   .stats = Rows(stats_, 0, end - begin),
                                   .scale = static_cast<float>(scale)},
                                  compute);
    kernels::Matmul(
        {.a = logits, .b = y, .c = weight().gradient(), .a_transposed = true, .accumulate = true},
        compute);
    kernels::Matmul({.a = logits, .b = weight().value(), .c = y}, compute);
  }
}

void Output::Ready(StreamView compute) const {
  if (tied_ == nullptr) weight_->Ready(compute);
}

absl::StatusOr<TensorView> Output::Logits(TensorView y_TD, StreamView compute) const {
  if (y_TD.shape[0] > chunk_tokens_) {
    return absl::FailedPreconditionError("logits of " + std::to_string(y_TD.shape[0]) +
                                         " tokens were asked for, but there is room "
                                         "for " +
                                         std::to_string(chunk_tokens_) +
                                         ": raise StageShape::logits_bytes");
  }
  kernels::Matmul({.a = y_TD, .b = weight().Use(compute), .c = logits_, .b_transposed = true},
                  compute);
  return logits_;
}

}  // namespace muster::models
