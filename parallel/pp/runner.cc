#include "parallel/pp/runner.h"

#include <set>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/trace.h"

namespace muster::parallel {
namespace {

using kernels::StreamView;
using kernels::TensorView;
using Kind = Action::Kind;

const char* NameOf(Kind kind) {
  switch (kind) {
    case Kind::kForward:
      return "forward";
    case Kind::kEvaluate:
      return "evaluate";
    case Kind::kBackward:
      return "backward";
    case Kind::kBackwardInput:
      return "backward of inputs";
    case Kind::kBackwardWeight:
      return "backward of weights";
  }
  return "pass";
}

absl::Status RunStep(const ProgramStep& step, Channels* channels, Stage& stage,
                     MicrobatchObserver& observer, StreamView compute) {
  TensorView in;
  if (step.input) {
    ASSIGN_OR_RETURN(in, channels->Await(step.input, compute));
  }
  const TensorView out = step.output ? channels->Claim(step.output, compute) : TensorView();
  if (IsWeightGradient(step.action)) {
    observer.BeforeBackward(step.action.microbatch, step.last_contribution);
  }
  RETURN_IF_ERROR(RunAction(step.action, in, out, stage, compute));
  if (step.input) RETURN_IF_ERROR(channels->Read(step.input, compute));
  return step.output ? channels->Written(step.output, compute) : absl::OkStatus();
}

}  // namespace

PipelineRun FirstMicrobatches(PipelineRun run, int count) {
  std::erase_if(run.program,
                [&](const ProgramStep& step) { return step.action.microbatch >= count; });
  std::set<int> completed;  // stages
  for (auto step = run.program.rbegin(); step != run.program.rend(); ++step) {
    MUSTER_CHECK(!step->input && !step->output) << "a message of a run that is cut short";
    if (!IsWeightGradient(step->action)) continue;
    step->last_contribution = completed.insert(step->action.stage).second;
  }
  return run;
}

absl::Status RunAction(const Action& action, TensorView in, TensorView out, Stage& stage,
                       StreamView compute) {
  const kernels::TraceScope scope(compute, NameOf(action.kind), [&] {
    return kernels::TracedWork{.detail = "stage " + std::to_string(action.stage) + ", microbatch " +
                                         std::to_string(action.microbatch)};
  });
  switch (action.kind) {
    case Kind::kForward:
      return stage.Forward(action.stage, action.microbatch, in, out, compute);
    case Kind::kEvaluate:
      return stage.Evaluate(action.stage, action.microbatch, in, out, compute);
    case Kind::kBackward:
      return stage.Backward(action.stage, action.microbatch, in, out, compute);
    case Kind::kBackwardInput:
      return stage.BackwardInput(action.stage, action.microbatch, in, out, compute);
    case Kind::kBackwardWeight:
      return stage.BackwardWeight(action.stage, action.microbatch, compute);
  }
  return absl::InternalError("unknown kind of action");
}

PipelineRun PlanRun(const Schedule& schedule, const std::vector<ChannelPlan>& planned, int rank) {
  PipelineRun run;
  run.handover = Handover::kAhead;
  run.channels = PlanChannels(schedule, planned);
  run.program = MakeProgram(schedule, run.channels, rank);
  return run;
}

PipelineRun PlanOpening(const Schedule& schedule, const std::vector<ChannelPlan>& planned,
                        int rank) {
  PipelineRun run = PlanRun(OneAtATime(schedule), planned, rank);
  run.handover = Handover::kMeeting;
  return run;
}

absl::Status RunSchedule(const PipelineRun& run, Channels* channels, Stage& stage,
                         MicrobatchObserver& observer, StreamView compute) {
  if (channels != nullptr) RETURN_IF_ERROR(channels->Begin(run.channels, run.handover));
  for (size_t i = 0; i < run.program.size(); ++i) {
    const absl::Status status = RunStep(run.program[i], channels, stage, observer, compute);
    if (!status.ok()) {
      return kernels::Annotate(status, "action " + ToString(run.program[i].action) + " (" +
                                           std::to_string(i + 1) + " of " +
                                           std::to_string(run.program.size()) + ")");
    }
  }
  return absl::OkStatus();
}

}  // namespace muster::parallel
