#include "runtime/goodput/attribution.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/at_risk.h"
#include "runtime/goodput/attempt_end.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/job/exit_code.h"

namespace muster::runtime {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// A step number executed for the n-th time within an attempt: the same on every rank.
using Execution = std::pair<int64_t, int>;

// How later attempts look back at one.
struct Hindsight {
  int64_t rolled_back_to = kNever;  // min of S_b over later attempts b
  int64_t resumed_at = -1;          // S_b of the next attempt that began a step
};

std::optional<int64_t> FirstStep(const AttemptLog& attempt) {
  if (attempt.resume_step) return attempt.resume_step;
  std::optional<int64_t> first;
  for (const RankLog& rank : attempt.ranks) {
    if (rank.steps.empty()) continue;
    first = first ? std::min(*first, rank.steps[0].step) : rank.steps[0].step;
  }
  return first;
}

// The n of each execution of a rank.
std::vector<Execution> Executions(const RankLog& rank) {
  std::map<int64_t, int> seen;
  std::vector<Execution> executions;
  executions.reserve(rank.steps.size());
  for (const StepExecution& step : rank.steps) {
    executions.emplace_back(step.step, seen[step.step]++);
  }
  return executions;
}

// Has this rank gone through its i-th execution? A rank that began a later step has, even if its
// end record is damaged.
bool Passed(const RankLog& rank, size_t i) {
  return rank.steps[i].finished ||
         (i + 1 < rank.steps.size() && rank.steps[i + 1].step > rank.steps[i].step);
}

// Why the rank says that a step made no update; "": it does not.
std::string SkipReason(const RankLog& rank, int64_t step) {
  const auto last = std::find_if(rank.skips.rbegin(), rank.skips.rend(),
                                 [step](const SkipMark& mark) { return mark.step == step; });
  return last == rank.skips.rend() ? "" : last->reason;
}

// What the ranks together tell about one execution.
struct ExecutionFacts {
  int ranks_passed = 0;
  int64_t goes_back_to = kNever;  // the lowest step that any rank executes after it
};

// The table of steps while it is filled: `key` tells which execution the entry describes.
struct StepEntry {
  AttributedStep step;
  std::pair<int, int> key{-1, 0};  // attempt, n-th execution in it
  bool has_end = false;            // some rank's end record has filled in loss and tokens
  double sum_of_peaks = 0;
  bool knows_peaks = true, knows_hardware_flops = true;
};
using StepTable = std::map<int64_t, StepEntry>;

// Fills in one attempt and adds its steps to the table of all.
class AttemptAttributor {
 public:
  AttemptAttributor(const AttemptLog& log, bool is_last, const Hindsight& hindsight,
                    StepTable* steps)
      : log_(log), is_last_(is_last), hindsight_(hindsight), steps_(*steps) {}

  AttributedAttempt Run() {
    SetWindow();
    for (const RankLog& rank : log_.ranks) LookAt(rank);
    for (const RankLog& rank : log_.ranks) AddRank(rank);
    AddSilent(log_.world_size - static_cast<int>(log_.ranks.size()));
    result_.time.At(State::kSpareIdle) +=
        DeviceNs{result_.end_ns - result_.begin_ns} * result_.spare_devices;
    result_.time.At(State::kAllocWait) += DeviceNs{result_.alloc_wait_ns} * result_.devices();
    return std::move(result_);
  }

 private:
  void SetWindow() {
    result_.attempt = log_.attempt;
    result_.world_size = log_.world_size;
    result_.ranks_with_log = static_cast<int>(log_.ranks.size());
    result_.gap_before_ns = log_.gap_before_ns;
    result_.gap_by_wall_clock = log_.gap_by_wall_clock;
    result_.supervised = log_.supervisor >= 0;
    result_.begin_realtime_ns = log_.begin_realtime_ns;
    result_.clock_bound_ns = log_.clock_bound_ns;
    result_.first_step = FirstStep(log_);
    result_.failure = log_.failure;
    result_.stragglers = log_.stragglers;
    result_.exits = log_.exits;
    result_.spares_in = log_.spares_in;
    result_.hosts = log_.hosts;
    result_.scheduler = log_.scheduler;
    result_.alloc_wait_ns = log_.alloc_wait_ns;
    result_.queued_ns = log_.queued_ns;
    for (const AttemptHost& host : log_.hosts) {
      if (host.ranks == 0) result_.spare_devices += host.devices;
    }
    int64_t begin = log_.begin_ns.value_or(kNever), end = log_.end_ns.value_or(0);
    for (const RankLog& rank : log_.ranks) {
      begin = std::min(begin, rank.process_start_ns);
      end = std::max(end, rank.end_ns);
      if (!rank.exit_code) {
        result_.dead_ranks.push_back(rank.rank);
      } else if (result_.exit_code.value_or(0) == 0) {
        result_.exit_code = rank.exit_code;
      }
    }
    result_.begin_ns = std::min(begin, end);
    result_.end_ns = end;
    result_.open = is_last_ && !log_.failure && !log_.supervisor_end_ns && !result_.exit_code;
  }

  void LookAt(const RankLog& rank) {
    const std::vector<Execution> executions = Executions(rank);
    int64_t goes_back_to = kNever;
    for (size_t i = executions.size(); i-- > 0;) {
      ExecutionFacts& facts = executions_[executions[i]];
      facts.ranks_passed += Passed(rank, i) ? 1 : 0;
      facts.goes_back_to = std::min(facts.goes_back_to, goes_back_to);
      goes_back_to = std::min(goes_back_to, rank.steps[i].step);
    }
    const auto goes_back = [](const auto& a, const auto& b) { return a.step >= b.step; };
    const bool goes_on =
        !rank.steps.empty() &&
        std::adjacent_find(rank.steps.begin(), rank.steps.end(), goes_back) == rank.steps.end();
    went_on_to_ = goes_on ? std::min(went_on_to_, rank.steps.back().step) : -1;
  }

  void AddRank(const RankLog& rank) {
    const std::vector<Execution> executions = Executions(rank);
    const int64_t first = rank.phases.empty() ? rank.end_ns : rank.phases[0].begin_ns;
    result_.time.At(State::kLaunch) += first - result_.begin_ns;
    for (size_t i = 0; i < rank.phases.size(); ++i) {
      const Phase& phase = rank.phases[i];
      const int64_t end = i + 1 < rank.phases.size() ? rank.phases[i + 1].begin_ns : rank.end_ns;
      if (phase.state != State::kStep) {
        result_.time.At(phase.state) += end - phase.begin_ns;
        continue;
      }
      const size_t index = static_cast<size_t>(phase.step_index);
      const StepFate fate = FateOf(rank.steps[index], executions[index]);
      AddStep(rank, rank.steps[index], executions[index], fate, end - phase.begin_ns);
      if (rank.rank == log_.ranks[0].rank) CountStep(rank.steps[index].step, fate);
      result_.first_step_begin_ns =
          std::min(result_.first_step_begin_ns.value_or(kNever), phase.begin_ns);
    }
    AddTail(rank);
  }

  StepFate FateOf(const StepExecution& step, const Execution& execution) const {
    const ExecutionFacts& facts = executions_.at(execution);
    const bool complete = facts.ranks_passed == static_cast<int>(log_.ranks.size()) ||
                          hindsight_.resumed_at > step.step ||
                          // Every rank has begun a later one, so it ended this: a full disk may
                          // have lost its record.
                          step.step < went_on_to_;
    if (!step.finished || !complete) return StepFate::kLostPartial;
    if (step.step >= std::min(hindsight_.rolled_back_to, facts.goes_back_to)) {
      return StepFate::kRework;
    }
    return step.skipped ? StepFate::kSkipped : StepFate::kProductive;
  }

  void AddTail(const RankLog& rank) {
    const int64_t kill =
        std::clamp(log_.kill_ns.value_or(result_.end_ns), rank.end_ns, result_.end_ns);
    // A rank that gave up has closed its ledger, but nobody knew until the failure was detected.
    const bool left = rank.exit_code && !(log_.failure && *rank.exit_code == kNoExitCode);
    const bool asked_to_stop = rank.exit_code == kExitRequeue ||
                               (log_.failure && log_.failure->kind == FailureKind::kPreempted);
    if (asked_to_stop) {
      result_.time.At(State::kDrain) += result_.end_ns - rank.end_ns;
      return;
    }
    const int64_t torn_down_from = left ? rank.end_ns : kill;
    result_.time.At(State::kDetect) += torn_down_from - rank.end_ns;
    result_.time.At(State::kTeardown) += result_.end_ns - torn_down_from;
  }

  void AddSilent(int ranks) {
    const int64_t begin = result_.begin_ns, end = result_.end_ns;
    if (!log_.ranks.empty()) {
      result_.time.At(State::kUnknown) += DeviceNs{end - begin} * ranks;
      return;
    }
    const int64_t kill = std::clamp(log_.kill_ns.value_or(end), begin, end);
    const int64_t failed = std::clamp(log_.failure ? log_.failure->happened_ns : kill, begin, kill);
    result_.time.At(State::kLaunch) += DeviceNs{failed - begin} * ranks;
    result_.time.At(State::kDetect) += DeviceNs{kill - failed} * ranks;
    result_.time.At(State::kTeardown) += DeviceNs{end - kill} * ranks;
  }

  void CountStep(int64_t step, StepFate fate) {
    if (fate == StepFate::kLostPartial) return;
    ++result_.completed_steps;
    if (fate == StepFate::kRework) ++result_.rework_steps;
    if (fate == StepFate::kSkipped) ++result_.skipped_steps;
    result_.last_step = std::max(result_.last_step.value_or(step), step);
  }

  void AddStep(const RankLog& rank, const StepExecution& execution, const Execution& which,
               StepFate fate, int64_t ns) {
    StepEntry& entry = steps_[execution.step];
    Charge(which, fate, ns, &entry.step.charge);
    if (fate != StepFate::kLostPartial) {
      for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
        result_.time.step[static_cast<int>(fate)][c] += execution.time_ns[c];
      }
    }
    const std::pair<int, int> key{log_.attempt, which.second};
    if (key < entry.key) {  // another rank has shown a later execution
      entry.step.lost_device_ns += ns;
      return;
    }
    if (key > entry.key) StartEntry(execution, key, fate, &entry);
    AttributedStep& step = entry.step;
    ++step.ranks;
    entry.sum_of_peaks += rank.peak_flops;
    entry.knows_peaks = entry.knows_peaks && rank.peak_flops > 0;
    step.device_ns += ns;
    step.model_flops += execution.model_flops;
    step.hardware_flops += execution.hardware_flops;
    if (execution.finished && !(execution.hardware_flops > 0)) entry.knows_hardware_flops = false;
    // Ranks differ in fate only where an end record is damaged: those that have theirs decide.
    if (fate != StepFate::kLostPartial) step.fate = fate;
    if (execution.finished && !std::exchange(entry.has_end, true)) {
      if (execution.skipped) step.skip_reason = SkipReason(rank, execution.step);
      step.tokens = execution.tokens;
      step.first_sequence = execution.first_sequence;
      step.num_sequences = execution.num_sequences;
      step.loss_bits = execution.loss_bits;
      step.grad_norm_bits = execution.grad_norm_bits;
    }
    for (int c = 0; c < parallel::kNumTimeCategories; ++c) step.time_ns[c] += execution.time_ns[c];
  }

  void Charge(const Execution& which, StepFate fate, int64_t ns, StepCharge* charge) {
    if (fate == StepFate::kLostPartial) {
      result_.time.lost_partial += ns;
    } else if (fate == StepFate::kRework) {
      charge->rework += ns;
      const bool within = which.first >= executions_.at(which).goes_back_to;
      if (!within) result_.undone_steps[which.first] += ns;
    } else {
      charge->execution += ns;
    }
  }

  static void StartEntry(const StepExecution& execution, std::pair<int, int> key, StepFate fate,
                         StepEntry* entry) {
    const DeviceNs lost = entry->step.lost_device_ns + entry->step.device_ns;
    entry->key = key;
    entry->has_end = false;
    entry->sum_of_peaks = 0;
    entry->knows_peaks = entry->knows_hardware_flops = true;
    const StepCharge charge = entry->step.charge;  // over all executions
    entry->step = AttributedStep{};
    entry->step.charge = charge;
    entry->step.step = execution.step;
    entry->step.attempt = key.first;
    entry->step.fate = fate;
    entry->step.lost_device_ns = lost;
  }

  const AttemptLog& log_;
  const bool is_last_;  // of the run
  const Hindsight hindsight_;
  StepTable& steps_;
  std::map<Execution, ExecutionFacts> executions_;
  // The last step that every rank with a log has begun; -1 if one went back within the attempt.
  int64_t went_on_to_ = kNever;
  AttributedAttempt result_;
};

// For each attempt, what the later ones tell about it.
std::vector<Hindsight> LookBack(const RunLog& log) {
  std::vector<Hindsight> hindsight(log.attempts.size());
  for (size_t a = log.attempts.size(); a-- > 1;) {
    hindsight[a - 1] = hindsight[a];
    const std::optional<int64_t> first = FirstStep(log.attempts[a]);
    if (!first) continue;
    hindsight[a - 1].rolled_back_to = std::min(hindsight[a].rolled_back_to, *first);
    hindsight[a - 1].resumed_at = *first;
  }
  return hindsight;
}

// What the attempt's devices could have computed in their time; nullopt: a peak is not known.
std::optional<double> PossibleFlops(const AttemptLog& log, const AttributedAttempt& attempt) {
  double sum_of_peaks = 0;
  for (const RankLog& rank : log.ranks) {
    if (!(rank.peak_flops > 0)) return std::nullopt;
    sum_of_peaks += rank.peak_flops;
  }
  if (log.ranks.empty()) return 0;  // never came up: see below
  const double mean_peak = sum_of_peaks / static_cast<double>(log.ranks.size());
  return static_cast<double>(attempt.allocated()) / 1e9 * mean_peak;
}

void AddProductive(const StepTable& table, Attribution* result) {
  result->productive_hardware_flops = 0;
  for (const auto& [number, entry] : table) {
    result->steps.push_back(entry.step);
    AttributedStep& step = result->steps.back();
    if (entry.knows_peaks) step.peak_flops = entry.sum_of_peaks / step.ranks;
    if (!entry.knows_hardware_flops) step.hardware_flops = 0;
    if (entry.step.fate != StepFate::kProductive) continue;
    if (!(step.hardware_flops > 0)) result->productive_hardware_flops.reset();
    if (result->productive_hardware_flops) {
      *result->productive_hardware_flops += step.hardware_flops;
    }
    ++result->productive_steps;
    result->productive_tokens += entry.step.tokens;
    result->productive_flops += entry.step.model_flops;
  }
}

}  // namespace

DeviceNs DeviceTime::At(StepFate fate) const {
  if (fate == StepFate::kLostPartial) return lost_partial;
  const auto& parts = step[static_cast<int>(fate)];
  return std::accumulate(parts.begin(), parts.end(), DeviceNs{0});
}

DeviceNs DeviceTime::Total() const {
  return std::accumulate(state.begin(), state.end(), DeviceNs{0}) + At(StepFate::kProductive) +
         At(StepFate::kRework) + At(StepFate::kSkipped) + lost_partial;
}

DeviceNs DeviceTime::StartUp() const {
  return At(State::kLaunch) + At(State::kInitRuntime) + At(State::kInitModel) +
         At(State::kCheckpointLoad) + At(State::kDataSeek) + At(State::kWarmup);
}

DeviceTime& DeviceTime::operator+=(const DeviceTime& other) {
  for (int s = 0; s < kNumStates; ++s) state[s] += other.state[s];
  for (int f = 0; f < kNumBrokenDownFates; ++f) {
    for (int c = 0; c < parallel::kNumTimeCategories; ++c) step[f][c] += other.step[f][c];
  }
  lost_partial += other.lost_partial;
  return *this;
}

absl::StatusOr<Attribution> Attribute(const RunLog& log) {
  RETURN_IF_ERROR(CheckRunLog(log));
  const std::vector<Hindsight> hindsight = LookBack(log);
  Attribution result;
  result.possible_flops = 0;
  std::set<std::string> labels;
  StepTable table;
  DeviceNs never_came_up = 0;
  for (size_t a = 0; a < log.attempts.size(); ++a) {
    const bool is_last = a + 1 == log.attempts.size();
    AttributedAttempt attempt =
        AttemptAttributor(log.attempts[a], is_last, hindsight[a], &table).Run();
    result.total += attempt.time;
    result.allocated += attempt.allocated();
    const std::optional<double> possible = PossibleFlops(log.attempts[a], attempt);
    if (!possible) result.possible_flops.reset();
    if (result.possible_flops) *result.possible_flops += *possible;
    if (log.attempts[a].ranks.empty()) never_came_up += attempt.allocated();
    for (const RankLog& rank : log.attempts[a].ranks) labels.insert(rank.peak_label);
    result.attempts.push_back(std::move(attempt));
  }
  AddProductive(table, &result);
  const DeviceNs came_up = result.allocated - never_came_up;
  if (result.possible_flops && never_came_up > 0 && came_up > 0) {
    *result.possible_flops *= static_cast<double>(result.allocated) / static_cast<double>(came_up);
  }
  result.peak_labels.assign(labels.begin(), labels.end());
  MarkAtRisk(log, &result);
  ChargeFailures(&result);
  RETURN_IF_ERROR(CheckConserved(result));
  return result;
}

}  // namespace muster::runtime
