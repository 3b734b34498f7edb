#pragma once
// Executes one rank's actions of a schedule on its stage.
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/pp/schedule.h"
#include "parallel/pp/stage.h"

namespace muster::parallel {

// Called before each kBackward and kBackwardWeight: is it the last that adds to the gradients?
class MicrobatchObserver {
 public:
  virtual ~MicrobatchObserver() = default;
  virtual void BeforeBackward(int microbatch, bool last) = 0;
};

// Runs the actions of a pipeline of one stage. Errors: InvalidArgument for an action of another
// stage; the stage's own, annotated with the action.
absl::Status RunSchedule(const std::vector<Action>& actions, Stage& stage,
                         MicrobatchObserver& observer, kernels::StreamView compute);

}  // namespace muster::parallel
