#pragma once
// Places of experts where the tokens of a sequence lie on several ranks (where they do not,
// SortByExpert counts them).
#include "kernels/ops/op.h"

namespace muster::kernels {

// An expert takes at most `capacity` choices of a sequence, first come first served: in the order
// of tokens, then of a token's choices. `all` has the choices of B sequences of S tokens on the P
// ranks of a context group, B S / P rows each: for every sequence one run of S / P tokens, of which
// the first half is chunk p of the sequence's 2 P chunks and the second chunk 2 P - 1 - p
// (parallel/cp/sequence_chunks.h); with one rank the run is the sequence. `out` are rows
// [first_row, first_row + T) of rank `rank`, with -1 for a choice that finds no place.
struct AdmitByCapacityArgs {
  TensorView all;  // int32 [P, B S / P, k], each of 0 .. num_experts - 1
  TensorView out;  // out int32 [T, k]
  int64_t num_experts = 0, sequence_tokens = 0, capacity = 0;
  int64_t rank = 0, first_row = 0;
};
MUSTER_DECLARE_OP(AdmitByCapacity)

}  // namespace muster::kernels
