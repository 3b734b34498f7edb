// The contracts of the operators of a dense model as checks. T, D and so on: kernels/ops/op.h.
#include <algorithm>

#include "kernels/ops/adamw.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/check_args.h"
#include "kernels/ops/cross_entropy.h"
#include "kernels/ops/digest.h"
#include "kernels/ops/embedding.h"
#include "kernels/ops/gelu.h"
#include "kernels/ops/layer_norm.h"
#include "kernels/ops/reduce.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/swiglu.h"

namespace muster::kernels {
namespace {

constexpr DType kIndex = DType::kInt32;

// The optional tensors by which rows of an expert's activation are scaled and bounded.
void CheckRows(const char* op, const TensorView& row_weight, const TensorView& row_count,
               DType accumulator, int64_t num_rows) {
  CheckOptional(op, "row_weight", row_weight, accumulator, {num_rows});
  CheckOptional(op, "row_count", row_count, DType::kInt64, {1});
}

}  // namespace

void CheckArgs(const AdamWArgs& args) {
  const char* op = "AdamW";
  CheckRangeTable(op, args.table, sizeof(AdamWRange));
  CheckTensor(op, "grad_scale", args.grad_scale, AccumulatorDType(args.weight_dtype), {1});
  CheckOptional(op, "digests", args.digests, DType::kInt64, {args.table.num_ranges, 2});
  MUSTER_CHECK(args.step >= 1) << op << ": step counts from 1, found " << args.step;
}

void CheckArgs(const CastArgs& args) {
  CheckFloating("Cast", "x", args.x, -1);
  CheckFloating("Cast", "out", args.out, -1);
  CheckTensor("Cast", "out", args.out, args.out.dtype, args.x.shape);
}

void CheckArgs(const FillArgs& args) { CheckFloating("Fill", "x", args.x, -1); }

void CheckArgs(const FillNormalArgs& args) {
  CheckFloating("FillNormal", "x", args.x, -1);
  const int rank = args.x.rank();
  bool inside = rank > 0 && args.global_shape.rank() == rank && args.begin.rank() == rank;
  for (int dim = 0; inside && dim < rank; ++dim) {
    inside = args.begin[dim] >= 0 && args.begin[dim] + args.x.shape[dim] <= args.global_shape[dim];
  }
  MUSTER_CHECK(inside) << "FillNormal: x is " << args.x.ToString() << " from "
                       << args.begin.ToString() << " on, which is not within the global tensor "
                       << args.global_shape.ToString();
}

// Rows may lie apart, each of them is contiguous.
static void CheckLogits(const char* op, const TensorView& logits) {
  MUSTER_CHECK(logits.rank() == 2)
      << op << ": argument logits wants 2 dims, found " << logits.ToString();
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  MUSTER_CHECK((columns <= 1 || logits.strides[1] == 1) &&
               (rows <= 1 || logits.strides[0] >= columns))
      << op << ": argument logits wants contiguous rows, found strides "
      << logits.strides.ToString() << " for " << logits.ToString();
  CheckFloating(op, "logits", logits.Slice(0, 0, std::min<int64_t>(rows, 1)), 2);
}

void CheckArgs(const CrossEntropyStatsArgs& args) {
  CheckLogits("CrossEntropyStats", args.logits);
  const int64_t num_tokens = args.logits.shape[0];
  CheckTensor("CrossEntropyStats", "targets", args.targets, kIndex, {num_tokens});
  CheckTensor("CrossEntropyStats", "stats", args.stats, AccumulatorDType(args.logits.dtype),
              {num_tokens, 3});
}

void CheckArgs(const CrossEntropyMergeStatsArgs& args) {
  CheckFloating("CrossEntropyMergeStats", "stats", args.stats, 2);
  CheckTensor("CrossEntropyMergeStats", "shards", args.shards, AccumulatorDType(args.stats.dtype),
              {args.shards.shape[0], args.stats.shape[0], 3});
  CheckTensor("CrossEntropyMergeStats", "stats", args.stats, args.shards.dtype,
              {args.stats.shape[0], 3});
}

void CheckArgs(const CrossEntropyLossArgs& args) {
  CheckFloating("CrossEntropyLoss", "losses", args.losses, 1);
  const int64_t num_tokens = args.losses.shape[0];
  const DType accumulator = AccumulatorDType(args.losses.dtype);
  CheckTensor("CrossEntropyLoss", "losses", args.losses, accumulator, {num_tokens});
  CheckTensor("CrossEntropyLoss", "stats", args.stats, accumulator, {num_tokens, 3});
  CheckTensor("CrossEntropyLoss", "targets", args.targets, kIndex, {num_tokens});
}

void CheckArgs(const CrossEntropyBackwardArgs& args) {
  CheckLogits("CrossEntropyBackward", args.logits);
  const int64_t num_tokens = args.logits.shape[0];
  CheckTensor("CrossEntropyBackward", "targets", args.targets, kIndex, {num_tokens});
  CheckTensor("CrossEntropyBackward", "stats", args.stats, AccumulatorDType(args.logits.dtype),
              {num_tokens, 3});
}

void CheckArgs(const DigestArgs& args) {
  CheckFloating("Digest", "x", args.x, 1);
  CheckRangeTable("Digest", args.table, sizeof(DigestRange));
  CheckTensor("Digest", "out", args.out, DType::kInt64, {args.table.num_ranges});
}

void CheckArgs(const EmbeddingForwardArgs& args) {
  const char* op = "EmbeddingForward";
  CheckFloating(op, "table", args.table, 2);
  CheckRank(op, "tokens", args.tokens, kIndex, 1);
  const int64_t num_tokens = args.tokens.shape[0], dim = args.table.shape[1];
  CheckTensor(op, "out", args.out, args.table.dtype, {num_tokens, dim});
  if (!args.position_table) return;
  CheckTensor(op, "position_table", args.position_table, args.table.dtype,
              {args.position_table.shape[0], dim});
  CheckTensor(op, "positions", args.positions, kIndex, {num_tokens});
}

void CheckArgs(const EmbeddingBackwardArgs& args) {
  const char* op = "EmbeddingBackward";
  CheckFloating(op, "d_out", args.d_out, 2);
  CheckTensor(op, "indices", args.indices, kIndex, {args.d_out.shape[0]});
  CheckTensor(op, "d_table", args.d_table, AccumulatorDType(args.d_out.dtype),
              {args.d_table.shape[0], args.d_out.shape[1]});
}

void CheckArgs(const GeluForwardArgs& args) {
  CheckFloating("GeluForward", "x", args.x, 2);
  CheckTensor("GeluForward", "out", args.out, args.x.dtype, args.x.shape);
  CheckRows("GeluForward", args.row_weight, args.row_count, AccumulatorDType(args.x.dtype),
            args.x.shape[0]);
}

void CheckArgs(const GeluBackwardArgs& args) {
  const char* op = "GeluBackward";
  CheckFloating(op, "x", args.x, 2);
  const DType accumulator = AccumulatorDType(args.x.dtype);
  const int64_t num_rows = args.x.shape[0];
  CheckTensor(op, "d_out", args.d_out, args.x.dtype, args.x.shape);
  CheckTensor(op, "d_x", args.d_x, args.x.dtype, args.x.shape);
  CheckRows(op, args.row_weight, args.row_count, accumulator, num_rows);
  if (args.row_weight) CheckTensor(op, "d_row_weight", args.d_row_weight, accumulator, {num_rows});
  CheckOptional(op, "d_bias", args.d_bias, accumulator, {args.x.shape[1]});
  MUSTER_CHECK(!args.d_bias || (!args.row_weight && !args.row_count))
      << op << ": d_bias is not wanted with row_weight or row_count";
}

void CheckArgs(const LayerNormForwardArgs& args) {
  const char* op = "LayerNormForward";
  CheckFloating(op, "x", args.x, 2);
  const DType storage = args.x.dtype, accumulator = AccumulatorDType(storage);
  const int64_t num_tokens = args.x.shape[0], dim = args.x.shape[1];
  CheckOptional(op, "residual", args.residual, storage, args.x.shape);
  if (args.residual) CheckTensor(op, "h", args.h, storage, args.x.shape);
  CheckTensor(op, "weight", args.weight, storage, {dim});
  CheckOptional(op, "bias", args.bias, storage, {dim});
  CheckTensor(op, "y", args.y, storage, args.x.shape);
  CheckTensor(op, "mean", args.mean, accumulator, {num_tokens});
  CheckTensor(op, "rstd", args.rstd, accumulator, {num_tokens});
}

void CheckArgs(const LayerNormBackwardArgs& args) {
  const char* op = "LayerNormBackward";
  CheckFloating(op, "h", args.h, 2);
  const DType storage = args.h.dtype, accumulator = AccumulatorDType(storage);
  const int64_t num_tokens = args.h.shape[0], dim = args.h.shape[1];
  CheckTensor(op, "d_y", args.d_y, storage, args.h.shape);
  CheckTensor(op, "weight", args.weight, storage, {dim});
  CheckTensor(op, "mean", args.mean, accumulator, {num_tokens});
  CheckTensor(op, "rstd", args.rstd, accumulator, {num_tokens});
  CheckOptional(op, "d_residual", args.d_residual, storage, args.h.shape);
  CheckTensor(op, "d_h", args.d_h, storage, args.h.shape);
  CheckOptional(op, "d_weight", args.d_weight, accumulator, {dim});
  CheckOptional(op, "d_bias", args.d_bias, accumulator, {dim});
}

void CheckArgs(const SumOfSquaresArgs& args) {
  CheckRangeTable("SumOfSquares", args.table, sizeof(SquaresRange));
  CheckTensor("SumOfSquares", "out", args.out, DType::kFloat64, {1});
}

void CheckArgs(const SumArgs& args) {
  CheckFloating("Sum", "x", args.x, -1);
  CheckTensor("Sum", "out", args.out, DType::kFloat64, {1});
}

void CheckArgs(const ColumnSumArgs& args) {
  CheckFloating("ColumnSum", "x", args.x, 2);
  CheckTensor("ColumnSum", "out", args.out, AccumulatorDType(args.x.dtype), {args.x.shape[1]});
}

void CheckArgs(const AddArgs& args) {
  CheckFloating("Add", "out", args.out, -1);
  CheckTensor("Add", "a", args.a, args.out.dtype, args.out.shape);
  CheckTensor("Add", "b", args.b, args.out.dtype, args.out.shape);
}

void CheckArgs(const SumSlicesArgs& args) {
  CheckFloating("SumSlices", "inputs", args.inputs, 2);
  CheckTensor("SumSlices", "out", args.out, args.inputs.dtype, {args.inputs.shape[1]});
}

void CheckArgs(const ClipCoefficientArgs& args) {
  const char* op = "ClipCoefficient";
  CheckTensor(op, "sum_of_squares", args.sum_of_squares, DType::kFloat64, {1});
  CheckTensor(op, "norm", args.norm, DType::kFloat64, {1});
  CheckFloating(op, "scale", args.scale, 1);
  CheckTensor(op, "scale", args.scale, AccumulatorDType(args.scale.dtype), {1});
}

void CheckArgs(const RmsNormForwardArgs& args) {
  const char* op = "RmsNormForward";
  CheckFloating(op, "x", args.x, 2);
  const DType storage = args.x.dtype;
  CheckOptional(op, "residual", args.residual, storage, args.x.shape);
  if (args.residual) CheckTensor(op, "h", args.h, storage, args.x.shape);
  CheckTensor(op, "weight", args.weight, storage, {args.x.shape[1]});
  CheckTensor(op, "y", args.y, storage, args.x.shape);
  CheckTensor(op, "rstd", args.rstd, AccumulatorDType(storage), {args.x.shape[0]});
}

void CheckArgs(const RmsNormBackwardArgs& args) {
  const char* op = "RmsNormBackward";
  CheckFloating(op, "h", args.h, 2);
  const DType storage = args.h.dtype;
  CheckTensor(op, "d_y", args.d_y, storage, args.h.shape);
  CheckTensor(op, "weight", args.weight, storage, {args.h.shape[1]});
  CheckTensor(op, "rstd", args.rstd, AccumulatorDType(storage), {args.h.shape[0]});
  CheckOptional(op, "d_residual", args.d_residual, storage, args.h.shape);
  CheckTensor(op, "d_h", args.d_h, storage, args.h.shape);
  CheckOptional(op, "d_weight", args.d_weight, AccumulatorDType(storage), {args.h.shape[1]});
}

void CheckArgs(const RopeTableArgs& args) {
  CheckFloating("RopeTable", "table", args.table, 3);
  CheckTensor("RopeTable", "table", args.table, AccumulatorDType(args.table.dtype),
              {args.table.shape[0], args.table.shape[1], 2});
}

void CheckArgs(const RopeArgs& args) {
  MUSTER_CHECK(args.x && args.x.rank() == 3 && args.x.shape[2] % 2 == 0)
      << "Rope: argument x wants [T, H, C] with an even C, found " << args.x.ToString();
  MUSTER_CHECK(args.x.strides[2] == 1 && args.x.strides[1] == args.x.shape[2])
      << "Rope: the heads of a token want to be contiguous, found strides "
      << args.x.strides.ToString() << " of " << args.x.ToString();
  CheckTensor("Rope", "positions", args.positions, kIndex, {args.x.shape[0]});
  CheckTensor("Rope", "table", args.table, AccumulatorDType(args.x.dtype),
              {args.table.shape[0], args.x.shape[2] / 2, 2});
}

void CheckArgs(const SwiGluForwardArgs& args) {
  const char* op = "SwiGluForward";
  CheckFloating(op, "out", args.out, 2);
  const int64_t num_rows = args.out.shape[0];
  CheckTensor(op, "gate_up", args.gate_up, args.out.dtype, {num_rows, 2 * args.out.shape[1]});
  CheckRows(op, args.row_weight, args.row_count, AccumulatorDType(args.out.dtype), num_rows);
}

void CheckArgs(const SwiGluBackwardArgs& args) {
  const char* op = "SwiGluBackward";
  CheckFloating(op, "d_out", args.d_out, 2);
  const DType storage = args.d_out.dtype, accumulator = AccumulatorDType(storage);
  const int64_t num_rows = args.d_out.shape[0];
  const Shape fused{num_rows, 2 * args.d_out.shape[1]};
  CheckTensor(op, "gate_up", args.gate_up, storage, fused);
  CheckTensor(op, "d_gate_up", args.d_gate_up, storage, fused);
  CheckRows(op, args.row_weight, args.row_count, accumulator, num_rows);
  if (args.row_weight) CheckTensor(op, "d_row_weight", args.d_row_weight, accumulator, {num_rows});
}

}  // namespace muster::kernels
