#pragma once
// A schedule is data: for every rank of the pipeline, the list of actions it performs in order.
// Schedules are pure functions of the pipeline's shape; one runner executes any list.
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::parallel {

struct Action {
  enum class Kind { kForward, kBackward, kBackwardInput, kBackwardWeight } kind;
  int stage;  // of the whole pipeline; a rank may hold several
  int microbatch;
  friend bool operator==(const Action&, const Action&) = default;
};
// "F0.3": forward, stage 0, microbatch 3; B is a whole backward, I and W its two halves.
std::string ToString(const Action& action);

struct PipelineShape {
  int ranks = 1;
  int microbatches = 1;
};

using Schedule = std::vector<std::vector<Action>>;  // by pipeline rank

// "1f1b" (Narayanan et al., PipeDream-Flush / Megatron-LM, 2021): p - rank - 1 warm-up forwards,
// then one forward, one backward, then the remaining backwards. With one rank: gradient
// accumulation, F0 B0 F1 B1 ...
Schedule OneForwardOneBackward(const PipelineShape& shape);

// Microbatches alive at once on each rank, between forward and last backward: slots to plan. With
// several stages on a rank, a microbatch counts once for each.
std::vector<int> PeakMicrobatches(const Schedule& schedule);

}  // namespace muster::parallel
