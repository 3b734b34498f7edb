#pragma once
// The router of a Mixture-of-Experts layer: scores, top-k choice, combine weights, and in the
// backward the gradient of all of them with the balancing losses.
//   score: softmax over E, or sigmoid (DeepSeek-V3, 2024).
//   choice: the k largest of score + bias, ties to the lower expert id; with groups > 1 only among
//     experts of the group_top_k groups whose two best (score + bias) sum highest, ties to the
//     lower group. Scores that are NaN still give k distinct experts.
//   weight: the chosen scores, without bias, divided by their sum + 1e-20 if normalise (scores that
//     all underflow give 0), times scale.
// Balancing losses (gradients with respect to the logits, added in the backward):
//   auxiliary, per group of tokens G (a sequence; Fedus et al. 2021, Zoph et al. 2022):
//     aux_coefficient * E / (k |G|) * sum_e count_e(G) * mean_{t in G} p_e(t), where p is the score
//     normalised over E; counts carry no gradient. Summed over groups, weighted by |G|.
//   the same with `load` in place of count_e(G) / |G|, when load is given (fractions that sum to
//     k): one for all groups (the batch-level loss), or one per group, of which this rank may hold
//     only some tokens.
//   z: z_coefficient * logsumexp(logits)^2 per token (Zoph et al., 2022).
// Both are means over the tokens of the global batch: loss_scale is 1 / (tokens of the global
// batch). Router logits and scores are in the accumulator dtype.
#include "kernels/ops/op.h"

namespace muster::kernels {

enum class RouterScore { kSoftmax, kSigmoid };

struct RouterOptions {
  RouterScore score = RouterScore::kSoftmax;
  int top_k = 2;
  int groups = 1, group_top_k = 1;
  bool normalise = false;  // divide the chosen weights by their sum
  float scale = 1.0f;
  float aux_coefficient = 0, z_coefficient = 0;
};

struct TopkRouteForwardArgs {
  TensorView logits;   // accumulator dtype [T, E]
  TensorView bias;     // optional, accumulator dtype [E]: balance bias, for the choice only
  TensorView scores;   // out, accumulator dtype [T, E]
  TensorView experts;  // out int32 [T, k], by falling choice value
  TensorView weights;  // out, accumulator dtype [T, k]
  RouterOptions options;
};
MUSTER_DECLARE_OP(TopkRouteForward)

struct TopkRouteBackwardArgs {
  TensorView logits;         // accumulator dtype [T, E]
  TensorView scores;         // accumulator dtype [T, E]
  TensorView experts;        // int32 [T, k]
  TensorView d_weights;      // accumulator dtype [T, k]
  TensorView load;           // optional, accumulator dtype [E], or [groups, E]: rows sum to k
  TensorView d_logits;       // out, accumulator dtype [T, E]
  TensorView losses;         // accumulated, fp64 [2]: auxiliary loss, z-loss, with coefficients and
                             // loss_scale applied
  int64_t group_tokens = 0;  // |G|: T is a multiple of it, unless load has rows for the groups
  int64_t first_token = 0;   // token t is of group (first_token + t) / group_tokens of load
  double loss_scale = 1.0;
  RouterOptions options;
};
MUSTER_DECLARE_OP(TopkRouteBackward)

// The fractions of the auxiliary loss, of groups of tokens: out_ge = scale * choices of expert e in
// group g. Where a group's tokens lie on several ranks, the sum of theirs is the group's load.
struct GroupLoadArgs {
  TensorView experts;        // int32 [T, k]
  TensorView out;            // accumulator dtype [T / |G|, E]
  int64_t group_tokens = 0;  // |G| on this rank: T is a multiple of it
  double scale = 1.0;        // 1 / tokens of the whole group
};
MUSTER_DECLARE_OP(GroupLoad)

}  // namespace muster::kernels
