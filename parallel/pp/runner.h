#pragma once
// Executes one rank's list of a schedule on its stages. One runner for every list: what makes the
// schedules differ is data.
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "parallel/pp/channels.h"
#include "parallel/pp/message_plan.h"
#include "parallel/pp/stage.h"

namespace muster::parallel {

// Called before each kBackward and kBackwardWeight: is it the last that adds to the gradients of
// its stage?
class MicrobatchObserver {
 public:
  virtual ~MicrobatchObserver() = default;
  virtual void BeforeBackward(int microbatch, bool last) = 0;
};

// A schedule as one rank runs it: its list, and every channel's messages.
struct PipelineRun {
  Program program;
  std::vector<ChannelPlan> channels;
  Handover handover = Handover::kAhead;
};
// `schedule` has passed CheckSchedule. Channels are numbered as in `planned`, those of the schedule
// that Channels was made for, which has all of them.
PipelineRun PlanRun(const Schedule& schedule, const std::vector<ChannelPlan>& planned, int rank);
// The same, for the first run of these actions on a GPU. A kernel's first launch loads it, which
// may wait for all that the device has been given, as may the search for an algorithm and the
// taking of memory. A receive that was posted ahead would be among that: it ends when the other
// stage has sent, which may in turn wait for what is being loaded here. So microbatches run one at
// a time, and hosts meet at each message. The sums are those of `schedule`, where its stages take
// microbatches in order.
PipelineRun PlanOpening(const Schedule& schedule, const std::vector<ChannelPlan>& planned,
                        int rank);

// Of a run on a pipeline of one, which exchanges no messages: the actions of its first `count`
// microbatches, the last of which completes the gradients.
PipelineRun FirstMicrobatches(PipelineRun run, int count);

// One action's pass: `in` and `out` as the stage wants them. Messages are the caller's matter.
absl::Status RunAction(const Action& action, kernels::TensorView in, kernels::TensorView out,
                       Stage& stage, kernels::StreamView compute);

// Enqueues all actions of `run`. `channels` may be null for a pipeline of one stage. Errors: the
// stage's own, annotated with the action; a message that could not be started.
absl::Status RunSchedule(const PipelineRun& run, Channels* channels, Stage& stage,
                         MicrobatchObserver& observer, kernels::StreamView compute);

}  // namespace muster::parallel
