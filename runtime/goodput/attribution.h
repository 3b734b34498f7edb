#pragma once
// Gives each nanosecond of each device exactly one name: a pure function of the logs.
//
// An attempt lasts from its first process start to its last record (or as its supervisor says), on
// all of its devices; those of hosts without ranks are spare_idle, and before the first attempt of
// each of a scheduler's starts all are alloc_wait from that start on. Before a rank's first state
// its time is launch; after its end record it is teardown (drain, if it was asked to stop); after
// the last record of a rank that died it is detect, and from the supervisor's kill on teardown. A
// rank without a log is unknown throughout; but if no rank of a supervised attempt has one, they
// never came up, and their time until the failure is launch.
//
// Let S_b be the first step that attempt b executes. A completed step s of attempt a is rework iff
// s >= S_b for some later attempt b (or the same attempt later goes back to s or before); else
// productive, or skipped, if it made no update. A step is complete when every rank with a log has
// ended it, or the next attempt resumed beyond it; the rest of what was begun is lost_partial.
//
// Conservation: the sum over all names equals the sum over attempts of (end - begin, and their
// alloc_wait) x devices, as integers, and so does the sum of what steps are charged with and what
// none is charged with. Both are checked, and a difference is an Internal error.
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/comm/time_category.h"
#include "runtime/goodput/run_log.h"

namespace muster::runtime {

// Nanoseconds x devices. 64 bits would end at 292 device-years.
__extension__ typedef __int128 DeviceNs;

enum class StepFate { kProductive, kRework, kSkipped, kLostPartial };
constexpr int kNumBrokenDownFates = 3;  // kLostPartial has no end record, so no parts

struct DeviceTime {
  std::array<DeviceNs, kNumStates> state{};  // outside steps: [kStep] stays 0
  std::array<std::array<DeviceNs, parallel::kNumTimeCategories>, kNumBrokenDownFates> step{};
  DeviceNs lost_partial = 0;

  // Launch, initialisation, load, warm-up.
  DeviceNs StartUp() const;
  DeviceNs& At(State s) { return state[static_cast<int>(s)]; }
  DeviceNs At(State s) const { return state[static_cast<int>(s)]; }
  // All of the executed steps' time with this fate.
  DeviceNs At(StepFate fate) const;
  DeviceNs Total() const;
  DeviceTime& operator+=(const DeviceTime& other);
};

// What a step cost, over all its executions (runtime/goodput/charge.h).
struct StepCharge {
  DeviceNs execution = 0;  // that survived; a skipped one, too
  DeviceNs rework = 0;     // that later ones repeated
  DeviceNs failure = 0;    // its shares of failures
  DeviceNs start_up = 0;   // its share, if the start-up is amortised
  DeviceNs Total() const { return execution + rework + failure + start_up; }
  StepCharge& operator+=(const StepCharge& other) {
    execution += other.execution;
    rework += other.rework;
    failure += other.failure;
    start_up += other.start_up;
    return *this;
  }
};
// What no step is charged with, each under one name.
struct Uncharged {
  DeviceNs start_up = 0;     // of the run, and after each end that was planned
  DeviceNs teardown = 0;     // behind ends that were planned, or of an attempt that is open
  DeviceNs unrecovered = 0;  // failures that no step has followed yet
  DeviceNs lost_partial = 0, evaluation = 0, checkpoint_stall = 0, alloc_wait = 0, spare_idle = 0,
           drain = 0, unknown = 0;
  DeviceNs Total() const {
    return start_up + teardown + unrecovered + lost_partial + evaluation + checkpoint_stall +
           alloc_wait + spare_idle + drain + unknown;
  }
};

struct AttributedAttempt {
  int attempt = 0, world_size = 1, ranks_with_log = 0;
  int64_t begin_ns = 0, end_ns = 0;  // of the attempt's clock
  int64_t gap_before_ns = 0, begin_realtime_ns = 0;
  bool gap_by_wall_clock = false, supervised = false;
  std::optional<int64_t> clock_bound_ns = 0;  // see AttemptLog
  DeviceTime time;
  // Executions that were complete, and rolled back by a later attempt: their time by step.
  std::map<int64_t, DeviceNs> undone_steps;
  DeviceNs rolled_back = 0;  // executions of earlier attempts that this one was the first to undo
  std::optional<int64_t> first_step, last_step;  // S_b; the last that was complete
  std::optional<int64_t> first_step_begin_ns;
  int64_t completed_steps = 0, rework_steps = 0, skipped_steps = 0;
  bool open = false;                 // the last one, and nobody has said that it ended
  std::vector<int> dead_ranks;       // without an end record
  std::optional<int32_t> exit_code;  // the first that is not 0, else 0; none: no rank has ended
  std::optional<Failure> failure;    // by a supervisor
  std::vector<Failure> stragglers;
  std::vector<RankExit> exits;
  std::vector<std::string> spares_in;
  std::vector<AttemptHost> hosts;
  SchedulerJob scheduler;
  int64_t alloc_wait_ns = 0, queued_ns = 0;  // see AttemptLog; the first is allocated
  int64_t spare_devices = 0;                 // on hosts without ranks
  int64_t devices() const { return world_size + spare_devices; }
  DeviceNs allocated() const { return DeviceNs{end_ns - begin_ns + alloc_wait_ns} * devices(); }
};

// All executions of one step number.
struct AttributedStep {
  int64_t step = 0;
  int attempt = 0;  // of the last execution: these fields are its
  StepFate fate = StepFate::kProductive;
  std::string skip_reason;  // "": it made an update, or its ledger does not tell
  bool at_risk = false;  // productive, and no committed checkpoint covers it while the run is open
  DeviceNs device_ns = 0;
  std::array<DeviceNs, parallel::kNumTimeCategories> time_ns{};  // sums to device_ns, if complete
  double model_flops = 0;                                        // of all ranks
  double hardware_flops = 0;  // with what was recomputed; 0: a rank does not say
  double peak_flops = 0;      // FLOP/s, mean over its devices; 0: one of them is not known
  int64_t tokens = 0;
  int64_t first_sequence = 0, num_sequences = 0;  // of the data; 0 sequences: not known
  uint64_t loss_bits = 0, grad_norm_bits = 0;     // the lowest rank's
  int ranks = 0;                                  // that executed it
  DeviceNs lost_device_ns = 0;                    // of the executions before
  StepCharge charge;
};

struct Attribution {
  std::vector<AttributedAttempt> attempts;
  std::vector<AttributedStep> steps;  // by step number
  Uncharged uncharged;
  DeviceTime total;
  DeviceNs allocated = 0;
  double productive_flops = 0;
  std::optional<double> productive_hardware_flops;  // nullopt: some step does not say
  int64_t productive_tokens = 0, productive_steps = 0;
  // Sum over devices of allocated seconds x peak FLOP/s: what the hardware could have done.
  // nullopt: a rank with a log states no peak. Devices without a log count with the mean of their
  // attempt, attempts without any with that of the others.
  std::optional<double> possible_flops;
  std::vector<std::string> peak_labels;  // all that occur
};

// Start-up is not amortised. Errors: InvalidArgument if the logs contradict themselves (attempt and
// rank), Internal if the result does not conserve time.
absl::StatusOr<Attribution> Attribute(const RunLog& log);

}  // namespace muster::runtime
