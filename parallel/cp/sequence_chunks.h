#pragma once
// Which tokens of a sequence a context-parallel rank holds. A sequence of S tokens is cut into
// 2 cp chunks; rank r holds chunks r and 2 cp - 1 - r, the r-th from the front and from the back.
// Under a causal mask early tokens meet few keys and late ones many: the pairs are equally much
// work, (2 cp + 1) / 2 chunks of keys for each of their queries.
//
//   cp 2, S 16:   rank 0: |0 1 2 3|       |       |12 13 14 15|
//                 rank 1:         |4 5 6 7|8 9 10 11|
//
// Local tokens lie in the order of their positions, so that a causal mask over local rows is the
// causal mask.
#include <cstdint>
#include <vector>

namespace muster::parallel {

// Positions [begin, begin + length) of a sequence.
struct SequenceRun {
  int64_t begin = 0, length = 0;
  friend bool operator==(const SequenceRun&, const SequenceRun&) = default;
};

// The runs of rank `rank` of `ranks`, by position: one run for a single rank, else two, of
// S / (2 ranks) each, which must divide.
std::vector<SequenceRun> ContextRuns(int64_t sequence_length, int ranks, int rank);

}  // namespace muster::parallel
