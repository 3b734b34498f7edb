#include "parallel/cp/sequence_chunks.h"

#include "kernels/base/error.h"

namespace muster::parallel {

std::vector<SequenceRun> ContextRuns(int64_t sequence_length, int ranks, int rank) {
  MUSTER_CHECK(ranks >= 1 && rank >= 0 && rank < ranks) << "rank " << rank << " of " << ranks;
  if (ranks == 1) return {{0, sequence_length}};
  const int64_t num_chunks = 2 * ranks, chunk = sequence_length / num_chunks;
  MUSTER_CHECK(sequence_length % num_chunks == 0)
      << "a sequence of " << sequence_length << " tokens in " << num_chunks << " chunks";
  return {{rank * chunk, chunk}, {(num_chunks - 1 - rank) * chunk, chunk}};
}

}  // namespace muster::parallel
