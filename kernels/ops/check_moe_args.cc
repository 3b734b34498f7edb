// The contracts of the operators of Mixture-of-Experts layers as checks.
#include "kernels/ops/capacity.h"
#include "kernels/ops/check_args.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/topk_route.h"

namespace muster::kernels {
namespace {

constexpr DType kIndex = DType::kInt32, kCount = DType::kInt64;

void CheckOptions(const char* op, const RouterOptions& options, int64_t num_experts) {
  const int64_t groups = options.groups;
  MUSTER_CHECK(groups >= 1 && num_experts % groups == 0 && options.group_top_k >= 1 &&
               options.group_top_k <= groups)
      << op << ": " << options.group_top_k << " of " << groups << " groups of " << num_experts
      << " experts in all";
  const int64_t eligible = groups > 1 ? num_experts / groups * options.group_top_k : num_experts;
  MUSTER_CHECK(options.top_k >= 1 && options.top_k <= eligible)
      << op << ": top_k is " << options.top_k << ", " << eligible << " experts are eligible";
}

}  // namespace

void CheckArgs(const SortByExpertArgs& args) {
  const char* op = "SortByExpert";
  CheckRank(op, "experts", args.experts, kIndex, 2);
  CheckRank(op, "counts", args.counts, kCount, 1);
  CheckTensor(op, "rows", args.rows, kIndex, args.experts.shape);
  CheckTensor(op, "offsets", args.offsets, kCount, {args.counts.shape[0] + 1});
  CheckTensor(op, "dropped", args.dropped, kCount, {1});
  MUSTER_CHECK(args.capacity == 0 || (args.capacity > 0 && args.group_tokens > 0))
      << op << ": capacity " << args.capacity << " of groups of " << args.group_tokens << " tokens";
}

void CheckArgs(const AdmitByCapacityArgs& args) {
  const char* op = "AdmitByCapacity";
  CheckRank(op, "all", args.all, kIndex, 3);
  CheckTensor(op, "out", args.out, kIndex, {args.out.shape[0], args.all.shape[2]});
  const int64_t ranks = args.all.shape[0], rows = args.all.shape[1], S = args.sequence_tokens;
  MUSTER_CHECK(args.capacity > 0 && args.num_experts > 0 && S > 0 &&
               S % (ranks == 1 ? 1 : 2 * ranks) == 0 && rows % (S / ranks) == 0)
      << op << ": " << rows << " rows on each of " << ranks << " ranks, of sequences of " << S
      << " tokens; capacity " << args.capacity << " of " << args.num_experts << " experts";
  MUSTER_CHECK(args.rank >= 0 && args.rank < ranks && args.first_row >= 0 &&
               args.first_row + args.out.shape[0] <= rows)
      << op << ": rows " << args.first_row << " + " << args.out.shape[0] << " of rank "
      << args.rank;
}

void CheckArgs(const DispatchRowsArgs& args) {
  CheckFloating("DispatchRows", "x", args.x, 2);
  CheckTensor("DispatchRows", "rows", args.rows, kIndex, {args.x.shape[0], args.rows.shape[1]});
  CheckTensor("DispatchRows", "out", args.out, args.x.dtype, {args.out.shape[0], args.x.shape[1]});
}

void CheckArgs(const CombineRowsArgs& args) {
  CheckFloating("CombineRows", "x", args.x, 2);
  CheckRank("CombineRows", "rows", args.rows, kIndex, 2);
  CheckTensor("CombineRows", "out", args.out, args.x.dtype, {args.rows.shape[0], args.x.shape[1]});
}

void CheckArgs(const PermuteWeightsArgs& args) {
  const char* op = "PermuteWeights";
  CheckFloating(op, "values_R", args.values_R, 1);
  const DType accumulator = AccumulatorDType(args.values_R.dtype);
  CheckTensor(op, "values_R", args.values_R, accumulator, {args.values_R.shape[0]});
  CheckRank(op, "rows", args.rows, kIndex, 2);
  CheckTensor(op, "values_Tk", args.values_Tk, accumulator, args.rows.shape);
}

void CheckArgs(const MergeSourcesArgs& args) {
  const char* op = "MergeSources";
  CheckRank(op, "counts", args.counts, kCount, 2);
  CheckRank(op, "index", args.index, kIndex, 1);
  CheckTensor(op, "offsets", args.offsets, kCount, {args.counts.shape[1] + 1});
  CheckTensor(op, "row_count", args.row_count, kCount, {1});
}

void CheckArgs(const SumCountsArgs& args) {
  CheckRank("SumCounts", "counts", args.counts, kCount, 2);
  CheckTensor("SumCounts", "sums", args.sums, kCount, {args.counts.shape[0]});
}

void CheckArgs(const GatherRowsArgs& args) {
  const char* op = "GatherRows";
  CheckFloating(op, "x", args.x, 2);
  CheckTensor(op, "index", args.index, kIndex, {args.x.shape[0]});
  CheckTensor(op, "row_count", args.row_count, kCount, {1});
  CheckTensor(op, "out", args.out, args.x.dtype, args.x.shape);
}

void CheckArgs(const TopkRouteForwardArgs& args) {
  const char* op = "TopkRouteForward";
  CheckFloating(op, "logits", args.logits, 2);
  const int64_t num_tokens = args.logits.shape[0], num_experts = args.logits.shape[1];
  const DType accumulator = AccumulatorDType(args.logits.dtype);
  CheckOptions(op, args.options, num_experts);
  const Shape chosen{num_tokens, args.options.top_k};
  CheckTensor(op, "logits", args.logits, accumulator, args.logits.shape);
  CheckOptional(op, "bias", args.bias, accumulator, {num_experts});
  CheckTensor(op, "scores", args.scores, accumulator, args.logits.shape);
  CheckTensor(op, "experts", args.experts, kIndex, chosen);
  CheckTensor(op, "weights", args.weights, accumulator, chosen);
}

void CheckArgs(const TopkRouteBackwardArgs& args) {
  const char* op = "TopkRouteBackward";
  CheckFloating(op, "logits", args.logits, 2);
  const int64_t num_tokens = args.logits.shape[0], num_experts = args.logits.shape[1];
  const DType accumulator = AccumulatorDType(args.logits.dtype);
  CheckOptions(op, args.options, num_experts);
  const Shape chosen{num_tokens, args.options.top_k};
  CheckTensor(op, "logits", args.logits, accumulator, args.logits.shape);
  CheckTensor(op, "scores", args.scores, accumulator, args.logits.shape);
  CheckTensor(op, "experts", args.experts, kIndex, chosen);
  CheckTensor(op, "d_weights", args.d_weights, accumulator, chosen);
  const bool of_groups = args.load && args.load.rank() == 2;
  const Shape of_all{num_experts};
  CheckOptional(op, "load", args.load, accumulator,
                of_groups ? Shape{args.load.shape[0], num_experts} : of_all);
  CheckTensor(op, "d_logits", args.d_logits, accumulator, args.logits.shape);
  CheckTensor(op, "losses", args.losses, DType::kFloat64, {2});
  const bool own_counts = args.options.aux_coefficient != 0 && !args.load;
  MUSTER_CHECK(!own_counts || (args.group_tokens > 0 && num_tokens % args.group_tokens == 0))
      << op << ": " << num_tokens << " tokens in groups of " << args.group_tokens;
  MUSTER_CHECK(!of_groups ||
               (args.group_tokens > 0 && args.first_token >= 0 &&
                args.first_token + num_tokens <= args.load.shape[0] * args.group_tokens))
      << op << ": argument load is " << args.load.ToString() << " for tokens " << args.first_token
      << " + " << num_tokens << " in groups of " << args.group_tokens;
}

void CheckArgs(const GroupLoadArgs& args) {
  const char* op = "GroupLoad";
  CheckRank(op, "experts", args.experts, kIndex, 2);
  CheckFloating(op, "out", args.out, 2);
  const int64_t num_tokens = args.experts.shape[0];
  MUSTER_CHECK(args.group_tokens > 0 && num_tokens % args.group_tokens == 0)
      << op << ": " << num_tokens << " tokens in groups of " << args.group_tokens;
  CheckTensor(op, "out", args.out, AccumulatorDType(args.out.dtype),
              {num_tokens / args.group_tokens, args.out.shape[1]});
}

}  // namespace muster::kernels
