#pragma once
// How far a run on many ranks is from the same job on one rank.
#include <string>

#include "parallel/comm/rendezvous.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {

// Relative to the value, or to the norm of the tensor.
struct ParityErrors {
  double loss = 0;        // of any step
  double validation = 0;  // of the validation loss
  double gradient = 0;    // of any gradient tensor after the first step, in the 2-norm
  std::string worst_gradient;
};

// Collective over `world`, on which `many` ran. CHECKs that both have the same steps, that no
// gradient of `one` is zero, and that the ranks hold every element of every gradient.
ParityErrors CompareWithOneRank(const TrainingRun& one, const TrainingRun& many,
                                parallel::World& world);

// The most that two runs in fp32 may differ by.
struct ParityTolerance {
  double loss = 1e-5, gradient = 1e-4;
};
void ExpectWithinTolerance(const ParityErrors& errors, const ParityTolerance& tolerance = {});
// Both; and that the model has learned.
ParityErrors ExpectEqualToOneRank(const TrainingRun& one, const TrainingRun& many,
                                  parallel::World& world, const ParityTolerance& tolerance = {});

}  // namespace muster::runtime
