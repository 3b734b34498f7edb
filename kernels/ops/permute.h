#pragma once
// Moving tokens between token order [T] and expert order [R]. Orders are fixed: rows of an expert
// are sorted by (token, choice), sums over a token's rows run over the choices in order.
#include "kernels/ops/op.h"

namespace muster::kernels {

// Sorts the T * k choices by expert, stably. With capacity > 0, a group of group_tokens
// consecutive tokens may send at most `capacity` choices to one expert, first come first served;
// others are dropped: their row is -1. A choice that is -1 has been dropped before.
struct SortByExpertArgs {
  TensorView experts;  // int32 [T, k], -1 .. E - 1
  TensorView rows;     // out int32 [T, k]: the row of each choice in expert order, or -1
  TensorView counts;   // out int64 [E]: kept choices of each expert
  TensorView offsets;  // out int64 [E + 1]: first row of each expert; offsets[E] = rows in all
  TensorView dropped;  // out int64 [1]
  int64_t capacity = 0, group_tokens = 0;
};
MUSTER_DECLARE_OP(SortByExpert)

// out[rows[t, j]] = x[t]; also the backward of CombineRows without weights.
struct DispatchRowsArgs {
  TensorView x;     // [T, D]
  TensorView rows;  // int32 [T, k]
  TensorView out;   // [R, D]; rows not named are left as they are
};
MUSTER_DECLARE_OP(DispatchRows)

// out[t] = sum_j x[rows[t, j]], j in order; also the backward of DispatchRows. With accumulate,
// added to out.
struct CombineRowsArgs {
  TensorView x;     // [R, D]
  TensorView rows;  // int32 [T, k]
  TensorView out;   // [T, D]
  bool accumulate = false;
};
MUSTER_DECLARE_OP(CombineRows)

// One value per choice: values_R[rows[t, j]] = values_Tk[t, j], or back when to_tokens (0 where
// the row is -1).
struct PermuteWeightsArgs {
  TensorView values_Tk;  // accumulator dtype [T, k]
  TensorView rows;       // int32 [T, k]
  TensorView values_R;   // accumulator dtype [R]
  bool to_tokens = false;
};
MUSTER_DECLARE_OP(PermuteWeights)

// Rows that arrive from n sources, each sorted by this rank's E experts, put into expert order
// (expert, then source). counts[s, e] says how many rows source s sent for expert e.
struct MergeSourcesArgs {
  TensorView counts;     // int64 [n, E]
  TensorView index;      // out int32 [R]: index[r] = row in expert order of arrived row r
  TensorView offsets;    // out int64 [E + 1]
  TensorView row_count;  // out int64 [1]: rows in all; CHECKs that it is within R
};
MUSTER_DECLARE_OP(MergeSources)

// Rows to or from each rank: sums[p] = sum over e of counts[p, e].
struct SumCountsArgs {
  TensorView counts;  // int64 [n, E]
  TensorView sums;    // out int64 [n]
};
MUSTER_DECLARE_OP(SumCounts)

// out[index[r]] = x[r] for r < row_count, or out[r] = x[index[r]] when inverse. D may be 1.
struct GatherRowsArgs {
  TensorView x;          // [R, D]
  TensorView index;      // int32 [R]
  TensorView row_count;  // int64 [1]
  TensorView out;        // [R, D]
  bool inverse = false;
};
MUSTER_DECLARE_OP(GatherRows)

}  // namespace muster::kernels
