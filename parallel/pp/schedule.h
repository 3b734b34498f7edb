#pragma once
// A schedule is data: for every rank of the pipeline, the list of actions it performs in order.
// Schedules are pure functions of the pipeline's shape (or a file); one runner executes any list.
// Which rank holds a stage follows from the lists: the one whose list names it.
#include <string>
#include <vector>

namespace muster::parallel {

struct Action {
  enum class Kind {
    kForward,
    kBackward,        // input and weight gradients together, layer by layer
    kBackwardInput,   // the two halves apart
    kBackwardWeight,  //
    kEvaluate,        // a forward that keeps nothing for a backward
  } kind;
  int stage;  // of the whole pipeline; a rank may hold several
  int microbatch;
  friend bool operator==(const Action&, const Action&) = default;
};
// "F0.3": forward, stage 0, microbatch 3; B is a whole backward, I and W its two halves, E an
// evaluation.
std::string ToString(const Action& action);
// What a microbatch waits for or hands on: E counts as forward.
bool IsForward(const Action& action);
// Sends a gradient to the stage before: B and I.
bool IsInputGradient(const Action& action);
// Adds to the gradients of the weights: B and W.
bool IsWeightGradient(const Action& action);

struct PipelineShape {
  int ranks = 1;
  int microbatches = 1;
  int stages_per_rank = 1;  // "virtual stages", of schedules that let it be chosen
};

using Schedule = std::vector<std::vector<Action>>;  // by pipeline rank

int NumStages(const Schedule& schedule);
int NumMicrobatches(const Schedule& schedule);
// Whether weight gradients come apart from input gradients.
bool SplitsBackward(const Schedule& schedule);
// The pipeline rank that holds each stage; -1 where no list names it.
std::vector<int> StageRanks(const Schedule& schedule);

// "1f1b" (Narayanan et al., PipeDream-Flush / Megatron-LM, 2021): p - rank - 1 warm-up forwards,
// then one forward, one backward, then the remaining backwards. With one rank: gradient
// accumulation, F0 B0 F1 B1 ...
Schedule OneForwardOneBackward(const PipelineShape& shape);

// The forwards of the first microbatches, in the order in which `schedule` has them, keeping
// nothing.
Schedule ForwardOnly(const Schedule& schedule, int microbatches);

// The actions of `schedule` with one microbatch in the pipeline at a time: forward through all
// stages and back, before the next one. A weight gradient follows its input gradient at once. Each
// stage adds up its gradients in the order of the microbatches' numbers.
Schedule OneAtATime(const Schedule& schedule);

// Microbatches alive at once on each rank, between forward and last backward: the activations that
// it holds at its peak. With several stages on a rank, a microbatch counts once for each.
std::vector<int> PeakMicrobatches(const Schedule& schedule);
// Slots to plan for each stage: microbatch m uses slot m mod slots, so that is the widest window
// from the oldest to the youngest that live at once. For stages that take microbatches in order,
// how many live at once.
std::vector<int> StageSlots(const Schedule& schedule);
// The same for what waits between an input gradient and the weight gradient of its microbatch: that
// of microbatch m is in gradient slot m mod slots. 1 where every backward is whole.
std::vector<int> StageGradientSlots(const Schedule& schedule);

}  // namespace muster::parallel
