#pragma once
// The output projection to the vocabulary and the loss: "output.weight" [V, D], or the embedding's
// table if tied. Logits are the biggest tensor of a model, so they exist only for a chunk of
// tokens at a time, and the chunk's gradients are computed while it is there: the forward of a
// training step leaves the gradient of its input, and has added the weight's. No schedule then
// needs logits kept or computed twice. Over the tensor group each rank has a part of the
// vocabulary: the ranks' statistics of a token are merged, and the first rank adds the loss to the
// facts. Rows of logits start 128 bytes aligned, whatever the vocabulary: tensor cores want rows
// of 16 bytes, and GPT-2's 50,257 would give them 2.
#include <optional>

#include "absl/status/statusor.h"
#include "models/layer.h"

namespace muster::models {

class Output {
 public:
  // `tied`: the embedding's table, which makes itself Ready; or null, where the table is not tied
  // or on another rank, of which this weight is then a copy (StageContext::table_tie).
  Output(StageContext& stage, const Weight* tied);
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  void PlanMemory(ArenaPlan& plan);

  // loss (fp64 [1]) += scale * sum of cross-entropies.
  // `targets` are those of all rows, y_TD is the stream.
  absl::Status Forward(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                       StreamView compute) const;
  // The same; then y_TD is the gradient of y.
  absl::Status ForwardBackward(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                               StreamView compute) const;
  // In the backward, whose gradients buckets take up.
  void Ready(StreamView compute) const;
  // All logits [T, V], in scratch. Errors: they do not fit in a chunk, or the vocabulary is cut.
  absl::StatusOr<TensorView> Logits(TensorView y_TD, StreamView compute) const;

 private:
  const Weight& weight() const { return tied_ != nullptr ? *tied_ : *weight_; }
  TensorView LogitRows(int64_t rows) const;  // [rows, V], rows apart
  // Logits and loss of one chunk.
  absl::Status Chunk(TensorView y_TD, TensorView targets, double scale, TensorView loss,
                     StreamView compute) const;

  const StageContext& stage_;
  const Weight* const tied_;
  std::optional<Weight> weight_;
  const int64_t chunk_tokens_;
  TensorView logits_;          // scratch, of a chunk: [chunk, V rounded up]
  TensorView stats_, losses_;  // scratch, of a chunk
  TensorView shard_stats_;     // scratch, of a chunk: [tp, T, 3], flat
  TensorView all_TD_;          // scratch, with sequence parallelism
};

}  // namespace muster::models
