#pragma once
// (seed, step, data rank) -> batch, with no other state: whoever asks for the same gets the same,
// on any layout, in any order, after any restart. The data is cut into windows of S + 1 tokens at
// stride S; each epoch visits every window once, in an order that a keyed bijection gives. Sample
// i of step s is global sample s * global_batch + i; data rank d takes a contiguous run of them,
// its microbatches in order, so that ranks 0, 1, ... concatenate to the global batch. Of each of
// them a context rank takes its chunks (parallel/cp/sequence_chunks.h), with their positions.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/job/config.h"

namespace muster::runtime {

// Host memory of one rank's batch of a step; each [microbatches * sequences * S / cp].
struct HostBatch {
  std::vector<int32_t> tokens, targets, positions;
  int64_t global_valid_tokens = 0;  // targets >= 0 of the whole global batch
};

enum class Split { kTrain, kValidation };

class BatchLoader {
 public:
  // Opens the job's files, or makes its synthetic tokens, for a context rank of the mesh. Errors:
  // no data for the split; fewer tokens than one window; a vocabulary larger than the model's.
  static absl::StatusOr<std::unique_ptr<BatchLoader>> Create(const ResolvedJob& job, Split split,
                                                             int context_rank = 0);
  virtual ~BatchLoader() = default;

  // Train: the batch of a step. Sizes of `batch` are set at the first call.
  virtual absl::Status Load(int64_t step, int data_rank, HostBatch* batch) const = 0;
  // Validation: microbatch `index` of `data_rank`, of a fixed list of windows without shuffling:
  // window (index * data ranks + data_rank) * microbatch_sequences + i. One microbatch is filled;
  // windows from `num_windows` on get targets of -100. `batch->global_valid_tokens` is that of all
  // num_windows.
  virtual absl::Status LoadValidation(int64_t index, int data_rank, int64_t num_windows,
                                      HostBatch* batch) const = 0;
  virtual int64_t num_windows() const = 0;
  virtual int64_t num_tokens() const = 0;
  // Entropy of the token frequencies of this split, in nats: what a model that knows only how often
  // each token occurs pays per token.
  virtual absl::StatusOr<double> UnigramEntropy() const = 0;
};

}  // namespace muster::runtime
