#include "models/output.h"

#include <algorithm>

#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/reduce.h"
#include "models/embedding.h"
#include "parallel/comm/collectives.h"

namespace muster::models {
namespace {

using parallel::InitRule;

constexpr int64_t kRowBytes = 128;    // rows of logits start at multiples
constexpr int64_t kTileTokens = 128;  // of products: chunks of other lengths waste a part of one

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Logits from one row to the next. Equal on all ranks of the tensor group, though their parts of
// the vocabulary may not be.
int64_t RowStride(const StageContext& stage) {
  const int64_t tp = stage.tensor().size(), vocabulary = (stage.config.vocab_size() + tp - 1) / tp;
  return RoundUp(vocabulary, kRowBytes / kernels::SizeOf(stage.shape.dtype));
}

// As many as fit, then fewer, so that all chunks are about as long.
int64_t ChunkTokens(const StageContext& stage) {
  const int64_t tokens = stage.shape.tokens();
  const int64_t row_bytes = RowStride(stage) * kernels::SizeOf(stage.shape.dtype);
  int64_t most = std::clamp<int64_t>(stage.shape.logits_bytes / row_bytes, 1, tokens);
  if (most == tokens || most < kTileTokens) return most;
  most = most / kTileTokens * kTileTokens;
  const int64_t chunks = (tokens + most - 1) / most;
  return RoundUp((tokens + chunks - 1) / chunks, kTileTokens);
}

TensorView Rows(const TensorView& x, int64_t begin, int64_t end) { return x.Slice(0, begin, end); }

}  // namespace

Output::Output(StageContext& stage, const Weight* tied)
    : stage_(stage), tied_(tied), chunk_tokens_(ChunkTokens(stage)) {
  if (tied == nullptr) {
    weight_.emplace(stage, stage.config.tied_embeddings() ? "embedding.weight" : "output.weight",
                    kernels::Shape{stage.config.vocab_size(), stage.config.hidden()},
                    Weight::Options{.init = {InitRule::Kind::kNormal, stage.config.init_std()},
                                    .placement = VocabularyPlacement(stage),
                                    .writes_gradient = true});
  }
}

void Output::PlanMemory(ArenaPlan& plan) {
  const ArenaPlan::ScratchScope scratch(plan);
  const parallel::TensorParallel tensor = stage_.tensor();
  plan.Add(&logits_, "output.logits", stage_.shape.dtype, {chunk_tokens_, RowStride(stage_)},
           Lifetime::kScratch);
  plan.Add(&stats_, "output.stats", stage_.accumulator(), {chunk_tokens_, 3}, Lifetime::kScratch);
  plan.Add(&losses_, "output.losses", stage_.accumulator(), {chunk_tokens_}, Lifetime::kScratch);
  if (tensor.size() > 1) {
    plan.Add(&shard_stats_, "output.shard_stats", stage_.accumulator(),
             {tensor.size() * chunk_tokens_ * 3}, Lifetime::kScratch);
  }
  if (tensor.sequence_parallel()) {
    plan.Add(&all_TD_, "output.all", stage_.shape.dtype,
             {stage_.shape.tokens(), stage_.config.hidden()}, Lifetime::kScratch);
  }
}

TensorView Output::LogitRows(int64_t rows) const {
  return logits_.Slice(0, 0, rows).Slice(1, 0, weight().slice().size[0]);
}

absl::Status Output::Chunk(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                           StreamView compute) const {
  const parallel::TensorParallel tensor = stage_.tensor();
  const int64_t T = y_TD.shape[0];
  const TensorView logits_TV = LogitRows(T), stats_T3 = Rows(stats_, 0, T);
  const TensorView losses_T = Rows(losses_, 0, T);
  kernels::Matmul({.a = y_TD, .b = weight().value(), .c = logits_TV, .b_transposed = true},
                  compute);
  kernels::CrossEntropyStats({.logits = logits_TV,
                              .targets = targets,
                              .stats = stats_T3,
                              .vocab_begin = weight().slice().begin[0]},
                             compute);
  if (tensor.size() > 1) {
    const TensorView shards = Rows(shard_stats_, 0, tensor.size() * T * 3);
    RETURN_IF_ERROR(parallel::AllGather(stats_T3, shards, tensor.group(), compute));
    kernels::CrossEntropyMergeStats(
        {.shards = shards.Reshape({tensor.size(), T, 3}), .stats = stats_T3}, compute);
  }
  if (tensor.rank() != 0) return absl::OkStatus();  // all ranks have the same losses
  kernels::CrossEntropyLoss({.stats = stats_T3, .targets = targets, .losses = losses_T}, compute);
  kernels::Sum({.x = losses_T, .out = loss, .scale = scale}, compute);
  return absl::OkStatus();
}

absl::Status Output::Forward(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                             StreamView compute) const {
  weight().Use(compute);
  ASSIGN_OR_RETURN(const TensorView all_TD, stage_.tensor().Gather(y_TD, all_TD_, compute));
  for (int64_t begin = 0; begin < all_TD.shape[0]; begin += chunk_tokens_) {
    const int64_t end = std::min(begin + chunk_tokens_, all_TD.shape[0]);
    RETURN_IF_ERROR(
        Chunk(Rows(all_TD, begin, end), Rows(targets, begin, end), scale, loss, compute));
  }
  return absl::OkStatus();
}

absl::Status Output::ForwardBackward(TensorView y_TD, TensorView targets, double scale,
                                     TensorView loss, StreamView compute) const {
  weight().Use(compute);
  ASSIGN_OR_RETURN(const TensorView all_TD, stage_.tensor().Gather(y_TD, all_TD_, compute));
  for (int64_t begin = 0; begin < all_TD.shape[0]; begin += chunk_tokens_) {
    const int64_t end = std::min(begin + chunk_tokens_, all_TD.shape[0]);
    const TensorView y = Rows(all_TD, begin, end), chunk_targets = Rows(targets, begin, end);
    const TensorView logits = LogitRows(end - begin);
    RETURN_IF_ERROR(Chunk(y, chunk_targets, scale, loss, compute));
    kernels::CrossEntropyBackward({.logits = logits,
                                   .targets = chunk_targets,
                                   .stats = Rows(stats_, 0, end - begin),
                                   .scale = static_cast<float>(scale),
                                   .vocab_begin = weight().slice().begin[0]},
                                  compute);
    const auto [gradient, adds] = weight().NextContribution();
    kernels::Matmul({.a = logits, .b = y, .c = gradient, .a_transposed = true, .accumulate = adds},
                    compute);
    kernels::Matmul({.a = logits, .b = weight().value(), .c = y}, compute);
  }
  return stage_.tensor().Reduce(all_TD, y_TD, compute);
}

void Output::Ready(StreamView compute) const {
  if (tied_ == nullptr) weight_->Ready(compute);
}

absl::StatusOr<TensorView> Output::Logits(TensorView y_TD, StreamView compute) const {
  if (stage_.tensor().size() > 1) {
    return absl::UnimplementedError("logits of a vocabulary that is cut over " +
                                    std::to_string(stage_.tensor().size()) +
                                    " tensor ranks were asked for; sample on one rank");
  }
  if (y_TD.shape[0] > chunk_tokens_) {
    return absl::FailedPreconditionError("logits of " + std::to_string(y_TD.shape[0]) +
                                         " tokens were asked for, but there is room "
                                         "for " +
                                         std::to_string(chunk_tokens_) +
                                         ": raise StageShape::logits_bytes");
  }
  // Without gaps, which callers need not know of.
  const TensorView logits_TV(logits_.data, logits_.dtype,
                             {y_TD.shape[0], stage_.config.vocab_size()}, logits_.device);
  kernels::Matmul({.a = y_TD, .b = weight().Use(compute), .c = logits_TV, .b_transposed = true},
                  compute);
  return logits_TV;
}

}  // namespace muster::models
