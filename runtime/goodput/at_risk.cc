#include "runtime/goodput/at_risk.h"

#include <algorithm>
#include <map>

#include "runtime/goodput/attempt_end.h"

namespace muster::runtime {
namespace {

// Where the last execution of each step ends.
std::map<int64_t, int64_t> EndsOfSteps(const RankLog& rank) {
  std::map<int64_t, int64_t> ends;
  for (size_t i = 0; i < rank.phases.size(); ++i) {
    if (rank.phases[i].state != State::kStep) continue;
    const StepExecution& step = rank.steps[static_cast<size_t>(rank.phases[i].step_index)];
    ends[step.step] = i + 1 < rank.phases.size() ? rank.phases[i + 1].begin_ns : rank.end_ns;
  }
  return ends;
}

// The highest step of the attempt that a checkpoint saved by it covers; -1: none. A snapshot from
// before a step's last execution does not.
int64_t CoveredBy(const AttemptLog& attempt) {
  if (attempt.ranks.empty()) return -1;
  const RankLog& rank = attempt.ranks[0];
  std::map<int64_t, int64_t> snapshots;
  int64_t snapshot_of_last_commit_ns = -1, step_of_last_commit = -1;
  for (const CheckpointMark& mark : rank.checkpoints) {
    if (mark.event.id.attempt != attempt.attempt) continue;
    const int64_t step = mark.event.id.step;
    if (mark.event.act == CheckpointAct::kSnapshot) snapshots[step] = mark.at_ns;
    if (mark.event.act != CheckpointAct::kCommit) continue;
    const auto snapshot = snapshots.find(step);
    snapshot_of_last_commit_ns = snapshot == snapshots.end() ? mark.at_ns : snapshot->second;
    step_of_last_commit = step;
  }
  int64_t covered = -1;
  for (const auto& [step, end_ns] : EndsOfSteps(rank)) {
    if (step > step_of_last_commit || end_ns > snapshot_of_last_commit_ns) break;
    covered = step;
  }
  return covered;
}

}  // namespace

void MarkAtRisk(const RunLog& log, Attribution* run) {
  if (run->attempts.empty() || Finished(run->attempts.back())) return;
  // Of attempts before the last that went on with a step, what survives is built upon.
  size_t last = log.attempts.size();
  while (last > 0 && !run->attempts[last - 1].first_step) --last;
  if (last == 0) return;
  const AttemptLog& attempt = log.attempts[last - 1];
  const int64_t covered = CoveredBy(attempt);
  for (AttributedStep& step : run->steps) {
    step.at_risk = step.fate == StepFate::kProductive && step.attempt == attempt.attempt &&
                   step.step > covered;
  }
}

}  // namespace muster::runtime
