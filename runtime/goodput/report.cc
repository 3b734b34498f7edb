#include "runtime/goodput/report.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/attempt_end.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/steps_goodput.h"

namespace muster::runtime {
namespace {

constexpr int kKept = static_cast<int>(StepFate::kProductive);

double Ratio(DeviceNs part, DeviceNs whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double Seconds(DeviceNs ns) { return static_cast<double>(ns) / 1e9; }

std::vector<NamedDeviceNs> ByCategory(const DeviceTime& time) {
  std::vector<NamedDeviceNs> named;
  for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
    named.emplace_back(Name(static_cast<parallel::TimeCategory>(c)), time.step[kKept][c]);
  }
  named.emplace_back("rework", time.At(StepFate::kRework));
  named.emplace_back("skipped", time.At(StepFate::kSkipped));
  named.emplace_back("lost_partial", time.lost_partial);
  for (int s = 0; s < kNumStates; ++s) {
    const State state = static_cast<State>(s);
    if (state != State::kStep) named.emplace_back(Name(state), time.At(state));
  }
  return named;
}

DeviceNs Idle(const DeviceTime& time) {
  return time.At(State::kAllocWait) + time.At(State::kSpareIdle) + time.At(State::kDrain);
}

std::vector<NamedDeviceNs> LostByCause(const Attribution& attribution) {
  using namespace parallel;
  const DeviceTime& total = attribution.total;
  const auto& kept = total.step[kKept];
  const DeviceNs first_start =
      attribution.attempts.empty() ? DeviceNs{0} : attribution.attempts[0].time.StartUp();
  return {
      {"start_up", first_start},
      {"restart", total.StartUp() - first_start},
      {"detect", total.At(State::kDetect)},
      {"teardown", total.At(State::kTeardown)},
      {"rework", total.At(StepFate::kRework)},
      {"lost_partial", total.lost_partial},
      {"skipped", total.At(StepFate::kSkipped)},
      {"checkpoint", total.At(State::kCheckpointStall) + kept[kCheckpoint]},
      {"evaluation", total.At(State::kEval)},
      {"data", kept[kData]},
      {"communication", kept[kExposedDp] + kept[kExposedTp] + kept[kExposedCp] + kept[kExposedPp] +
                            kept[kExposedEp]},
      {"bubble", kept[kBubble]},
      {"imbalance", kept[kImbalance]},
      {"optimizer", kept[kOptimizer]},
      {"other", kept[kOther]},
      {"idle", Idle(total)},
      {"unknown", total.At(State::kUnknown)},
  };
}

// Of completed steps.
DeviceNs Unstalled(const DeviceTime& time, StepFate fate) {
  const auto& parts = time.step[static_cast<int>(fate)];
  return time.At(fate) - parts[parallel::kData] - parts[parallel::kCheckpoint];
}

void SetFactors(RunReport* report) {
  const Attribution& attribution = report->attribution;
  const DeviceTime& total = attribution.total;
  const DeviceNs steps = total.At(StepFate::kProductive) + total.At(StepFate::kRework) +
                         total.At(StepFate::kSkipped) + total.lost_partial;
  report->working = steps + total.At(State::kEval) + total.At(State::kCheckpointStall);
  report->useful = Unstalled(total, StepFate::kProductive);
  report->unstalled = report->useful + Unstalled(total, StepFate::kRework) +
                      Unstalled(total, StepFate::kSkipped) + total.lost_partial;
  report->availability = Ratio(report->working, attribution.allocated);
  report->non_stall = Ratio(report->unstalled, report->working);
  report->non_rework = Ratio(report->useful, report->unstalled);
  if (attribution.possible_flops.value_or(0) <= 0 || attribution.allocated == 0) return;
  report->mean_peak_flops = *attribution.possible_flops / Seconds(attribution.allocated);
  report->goodput = attribution.productive_flops / *attribution.possible_flops;
  const double useful_flops = Seconds(report->useful) * report->mean_peak_flops;
  report->mfu = useful_flops > 0 ? attribution.productive_flops / useful_flops : 0;
  if (attribution.productive_hardware_flops && useful_flops > 0) {
    report->hfu = *attribution.productive_hardware_flops / useful_flops;
  }
  report->compute_below_peak_seconds = Seconds(total.step[kKept][parallel::kCompute]) -
                                       attribution.productive_flops / report->mean_peak_flops;
}

void SetRates(RunReport* report) {
  const Attribution& attribution = report->attribution;
  DeviceNs queue = 0;
  int64_t wall_ns = 0;
  for (const AttributedAttempt& attempt : attribution.attempts) {
    if (!attempt.clock_bound_ns) report->clock_bound_ns.reset();
    if (report->clock_bound_ns) {
      report->clock_bound_ns = std::max(*report->clock_bound_ns, *attempt.clock_bound_ns);
    }
    queue += DeviceNs{attempt.queued_ns + attempt.gap_before_ns} * attempt.devices();
    wall_ns += attempt.end_ns - attempt.begin_ns + attempt.alloc_wait_ns;
  }
  report->queue = queue;
  report->ettr = Ratio(attribution.total.At(StepFate::kProductive), attribution.allocated + queue);
  if (wall_ns == 0) return;
  const double tokens = static_cast<double>(attribution.productive_tokens);
  report->tokens_per_second = tokens / Seconds(wall_ns);
  report->tokens_per_device_hour = tokens / (Seconds(attribution.allocated) / 3600);
}

// Sum and number of something whose mean is wanted.
struct Mean {
  double sum = 0;
  int64_t count = 0;
  void Add(double value, int64_t weight = 1) {
    sum += value;
    count += weight;
  }
  std::optional<double> value() const {
    if (count == 0) return std::nullopt;
    return sum / static_cast<double>(count);
  }
};

void SetFailureTimes(RunReport* report) {
  const std::vector<AttributedAttempt>& attempts = report->attribution.attempts;
  Mean failure, detect, restart;
  for (size_t a = 0; a < attempts.size(); ++a) {
    const AttributedAttempt& attempt = attempts[a];
    failure.Add(Seconds(attempt.end_ns - attempt.begin_ns), Failed(attempt) ? 1 : 0);
    if (FailedBySupervisor(attempt)) {
      detect.Add(Seconds(attempt.failure->detected_ns - attempt.failure->happened_ns));
    } else if (Failed(attempt)) {
      detect.Add(Seconds(attempt.time.At(State::kDetect)),
                 static_cast<int64_t>(attempt.dead_ranks.size()));
    }
    if (a == 0 || !Failed(attempts[a - 1]) || !attempt.first_step_begin_ns) continue;
    const AttributedAttempt& before = attempts[a - 1];
    const int64_t noticed =
        FailedBySupervisor(before) ? before.failure->detected_ns : before.end_ns;
    restart.Add(Seconds(before.end_ns - noticed + attempt.gap_before_ns + attempt.alloc_wait_ns +
                        *attempt.first_step_begin_ns - attempt.begin_ns));
  }
  report->failures = static_cast<int>(failure.count);
  report->mean_time_to_failure_seconds = failure.value();
  report->mean_time_to_detect_seconds = detect.value();
  report->mean_time_to_restart_seconds = restart.value();
}

// A commit and the snapshot of the same id are marks of rank 0. Where the latter is missing, or
// came later (of an older writer), the time between them is not known.
void SetCheckpointTimes(const RunLog& log, RunReport* report) {
  Mean to_commit;
  std::vector<int64_t> intervals;
  for (const AttemptLog& attempt : log.attempts) {
    if (attempt.ranks.empty()) continue;
    int64_t last_snapshot = -1;
    std::map<std::pair<int64_t, int>, int64_t> snapshots;
    for (const CheckpointMark& mark : attempt.ranks[0].checkpoints) {
      const std::pair id{mark.event.id.step, mark.event.id.attempt};
      if (mark.event.act == CheckpointAct::kPutOff) ++report->saves_put_off;
      if (mark.event.act == CheckpointAct::kSnapshot) {
        snapshots[id] = mark.at_ns;
        // The last save may be tried several times.
        if (last_snapshot >= 0 && id.first > last_snapshot)
          intervals.push_back(id.first - last_snapshot);
        last_snapshot = id.first;
      }
      if (mark.event.act != CheckpointAct::kCommit) continue;
      ++report->commits;
      const auto snapshot = snapshots.find(id);
      if (snapshot != snapshots.end()) to_commit.Add(Seconds(mark.at_ns - snapshot->second));
    }
  }
  if (!intervals.empty()) {
    const auto middle = intervals.begin() + static_cast<int64_t>(intervals.size() / 2);
    std::nth_element(intervals.begin(), middle, intervals.end());
    report->steps_between_checkpoints = *middle;
  }
  report->mean_seconds_to_commit = to_commit.value();
  if (report->commits == 0) return;
  double stall_seconds = 0;  // of a device: each attempt has its own number of them
  for (const AttributedAttempt& attempt : report->attribution.attempts) {
    const DeviceTime& time = attempt.time;
    const DeviceNs stall =
        time.At(State::kCheckpointStall) + time.step[kKept][parallel::kCheckpoint];
    stall_seconds += Seconds(stall) / attempt.world_size;
  }
  report->mean_stall_seconds_of_checkpoint = stall_seconds / static_cast<double>(report->commits);
}

// Steps that an attempt undoes are lost to the first failure since one went on with a step.
void SetLostByFailure(RunReport* report) {
  const std::vector<AttributedAttempt>& attempts = report->attribution.attempts;
  std::map<std::string, DeviceNs> lost;
  DeviceNs* undoes = nullptr;  // of that failure's kind
  for (size_t a = 0; a < attempts.size(); ++a) {
    const AttributedAttempt& attempt = attempts[a];
    if (undoes != nullptr) *undoes += attempt.rolled_back;
    if (attempt.first_step) undoes = nullptr;
    if (!Failed(attempt)) continue;
    DeviceNs& sum =
        lost[FailedBySupervisor(attempt) ? Name(attempt.failure->kind) : "unsupervised"];
    sum += attempt.time.lost_partial + attempt.time.At(State::kDetect) +
           attempt.time.At(State::kTeardown);
    if (a + 1 < attempts.size()) sum += attempts[a + 1].time.StartUp();
    if (undoes == nullptr) undoes = &sum;
  }
  report->lost_by_failure.assign(lost.begin(), lost.end());
  std::stable_sort(report->lost_by_failure.begin(), report->lost_by_failure.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
}

}  // namespace

absl::StatusOr<RunReport> MakeReport(const std::string& run, RunLedger ledger,
                                     const ReportOptions& options) {
  RunReport report;
  report.run = run;
  report.options = options;
  report.notes = std::move(ledger.notes);
  ASSIGN_OR_RETURN(report.attribution, Attribute(ledger.log));
  if (options.amortise_start_up) {
    AmortiseStartUp(&report.attribution);
    RETURN_IF_ERROR(CheckConserved(report.attribution));
  }
  report.by_category = ByCategory(report.attribution.total);
  report.lost_by_cause = LostByCause(report.attribution);
  SetFactors(&report);
  SetStepsGoodput(&report);
  SetRates(&report);
  SetFailureTimes(&report);
  SetLostByFailure(&report);
  SetCheckpointTimes(ledger.log, &report);
  return report;
}

absl::StatusOr<RunReport> ReportOf(const std::string& run_directory, const ReportOptions& options) {
  ASSIGN_OR_RETURN(RunLedger ledger, ReadLedger(run_directory));
  return MakeReport(run_directory, std::move(ledger), options);
}

absl::StatusOr<FailureModel> FailureModelOf(const RunReport& report) {
  if (!report.mean_seconds_to_commit) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a projection needs the times of a checkpoint, and ", report.run,
        report.commits == 0 ? " committed none; train with checkpoint.every_steps"
                            : " does not tell when the snapshots were taken that it committed"));
  }
  FailureModel model;
  model.commit_seconds = *report.mean_seconds_to_commit;
  model.stall_seconds = *report.mean_stall_seconds_of_checkpoint;
  const AttributedAttempt& first = report.attribution.attempts.front();
  // Without a failure to learn from: what the start took.
  model.restart_seconds = report.mean_time_to_restart_seconds.value_or(
                              Seconds(first.time.StartUp()) / first.world_size) +
                          report.mean_time_to_detect_seconds.value_or(0);
  return model;
}

absl::StatusOr<OwnProjection> ProjectionOfRun(const RunReport& report) {
  const Attribution& run = report.attribution;
  if (run.attempts.size() < 2 || run.productive_steps == 0 || !report.steps_between_checkpoints) {
    return absl::FailedPreconditionError(
        report.run + " had no restart, or no two checkpoints in one attempt, to project from");
  }
  OwnProjection own;
  ASSIGN_OR_RETURN(own.model, FailureModelOf(report));
  double seconds = 0, device_seconds = 0;
  for (const AttributedAttempt& attempt : run.attempts) {
    const double all =
        Seconds(attempt.end_ns - attempt.begin_ns + attempt.alloc_wait_ns + attempt.gap_before_ns);
    seconds += all;
    device_seconds += all * static_cast<double>(attempt.devices());
  }
  const AttributedAttempt& first = run.attempts.front();
  const double start = Seconds(first.first_step_begin_ns.value_or(first.end_ns) - first.begin_ns +
                               first.alloc_wait_ns);
  seconds -= start;
  device_seconds -= start * static_cast<double>(first.devices());
  const double productive = Seconds(run.total.At(StepFate::kProductive));
  if (!(seconds > 0 && device_seconds > 0 && productive > 0)) {
    return absl::FailedPreconditionError(report.run + " kept no time to project from");
  }
  own.model.mttf_seconds = seconds / static_cast<double>(run.attempts.size() - 1);
  own.interval_seconds = productive * (seconds / device_seconds) /
                         static_cast<double>(run.productive_steps) *
                         static_cast<double>(*report.steps_between_checkpoints);
  own.projected = ProjectedGoodput(own.model, own.interval_seconds);
  own.kept = productive / device_seconds;
  return own;
}

std::string DecimalSeconds(DeviceNs ns) {
  if (ns < 0) return absl::StrCat("-", DecimalSeconds(-ns));
  std::string digits;
  for (int place = 0; place < 10 || ns > 0; ++place) {
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(ns % 10)));
    ns /= 10;
    if (place == 8) digits.insert(digits.begin(), '.');
  }
  while (digits.back() == '0' && digits[digits.size() - 2] != '.') digits.pop_back();
  return digits;
}

}  // namespace muster::runtime
