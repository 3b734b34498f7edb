#pragma once
// A training state as logical tensors: "weight/<global name>" (fp32 masters where weights are
// bf16), "moment1/...", "moment2/..." and "buffer/...". Each element is saved by one rank; replicas
// share the work. What is wanted back depends on the layout alone, so any other layout's checkpoint
// serves.
#include <vector>

#include "runtime/checkpoint/checkpointer.h"
#include "runtime/checkpoint/restore.h"
#include "runtime/train/training_state.h"

namespace muster::runtime {

std::vector<SavedPiece> SavedPieces(const TrainingState& state);
// Weights on every replica, masters and moments of this rank's share, and buffers. After it,
// nothing else (ReadWeights, a gather) is needed before the next step.
std::vector<WantedPiece> WantedPieces(const TrainingState& state);

}  // namespace muster::runtime
