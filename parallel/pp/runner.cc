#include "parallel/pp/runner.h"

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

bool AddsToGradients(const Action& action) {
  return action.kind == Action::Kind::kBackward || action.kind == Action::Kind::kBackwardWeight;
}

absl::Status RunAction(const Action& action, Stage& stage, kernels::StreamView compute) {
  // The only stage of a pipeline reads tokens and computes the loss: no hidden state comes or goes.
  const kernels::TensorView none;
  switch (action.kind) {
    case Action::Kind::kForward:
      return stage.Forward(action.microbatch, none, none, compute);
    case Action::Kind::kBackward:
      return stage.Backward(action.microbatch, none, none, compute);
    case Action::Kind::kBackwardInput:
      return stage.BackwardInput(action.microbatch, none, none, compute);
    case Action::Kind::kBackwardWeight:
      return stage.BackwardWeight(action.microbatch, compute);
  }
  return absl::InternalError("unknown kind of action");
}

}  // namespace

absl::Status RunSchedule(const std::vector<Action>& actions, Stage& stage,
                         MicrobatchObserver& observer, kernels::StreamView compute) {
  size_t last_contribution = actions.size();
  for (size_t i = 0; i < actions.size(); ++i) {
    if (actions[i].stage != 0) {
      return absl::InvalidArgumentError("action " + ToString(actions[i]) + " is of stage " +
                                        std::to_string(actions[i].stage) +
                                        "; this runner executes pipelines of one stage, stage 0");
    }
    if (AddsToGradients(actions[i])) last_contribution = i;
  }
  for (size_t i = 0; i < actions.size(); ++i) {
    if (AddsToGradients(actions[i])) {
      observer.BeforeBackward(actions[i].microbatch, i == last_contribution);
    }
    const absl::Status status = RunAction(actions[i], stage, compute);
    if (!status.ok()) {
      return kernels::Annotate(status, "action " + ToString(actions[i]) + " (" +
                                           std::to_string(i + 1) + " of " +
                                           std::to_string(actions.size()) + ")");
    }
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
