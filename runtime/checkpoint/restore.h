#pragma once
// Brings a run back to its newest checkpoint that is good, onto whatever layout it has now.
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/tensor/tensor.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/checkpoint/format.h"

namespace muster::runtime {

// What this rank wants of a logical tensor: range.count contiguous elements, written to `data`.
// `stored` is its dtype in checkpoints; bf16 data is rounded to from fp32, as AdamW rounds.
struct WantedPiece {
  std::string tensor;
  LogicalRange range;
  kernels::DType stored = kernels::DType::kFloat32;
  kernels::TensorView data;
};

// Where to look for a checkpoint.
struct RestoreSource {
  std::string directory;  // that holds step-<n>
  int64_t step = -1;      // only this one; -1: the newest that is good
};
// Of a run directory; or of one checkpoint, <directory>/step-<n>.
RestoreSource SourceOf(const std::string& path);

// Collective. Steps of the committed checkpoints in `directory` as rank 0 lists them, newest first.
absl::StatusOr<std::vector<int64_t>> AgreedCheckpoints(const std::string& directory,
                                                       parallel::World& world);

struct RestoredState {
  CheckpointFacts facts;
  std::string name;                    // "step-120"
  int64_t bytes = 0;                   // that this rank has read into `wanted`
  std::vector<std::string> passed_by;  // newer checkpoints that are damaged, and how
};

// Collective. Tries the checkpoints of `source` from the newest on: every rank verifies the hash of
// all that it reads, the ranks between them that of every byte, and only when all agree that it is
// good is anything written to `wanted`. One that is damaged, or that the disk cannot read, is
// logged and passed by; the one before it fills all of `wanted`. Empty: there is none. Errors,
// equal on all ranks: DataLoss if all are damaged (a run must not silently begin anew; `wanted` may
// have been written to); FailedPrecondition if a good one is of another model or dtype, with the
// tensor's name; NotFound if source.step is not there.
absl::StatusOr<std::optional<RestoredState>> Restore(const RestoreSource& source,
                                                     const std::vector<WantedPiece>& wanted,
                                                     parallel::World& world,
                                                     kernels::StreamView compute);

}  // namespace muster::runtime
