#pragma once
// What a run did with its devices, computed from its ledgers: the answer of `muster report`.
//
// Let A be the allocated device time, P the mean peak FLOP/s of an allocated device-second, F the
// model FLOPs of the steps that the run kept, and
//   working    = A less start-up, failure, idling and unknown: steps, evaluation, checkpoint stalls
//   unstalled  = working less evaluation, checkpoint stalls and the steps' waits for data and
//                checkpoints: steps of any fate while they computed or communicated
//   useful     = the part of unstalled in steps that the run kept
// Then goodput = F / (A P) factors exactly into
//   availability = working / A           non_stall = unstalled / working
//   non_rework   = useful / unstalled    mfu       = F / (useful P)
// (0 / 0 counts as 0). With C, the sum of what steps are charged with (runtime/goodput/charge.h),
// for A, and the executions of steps as a whole for working, the same four make the mean of the
// steps' goodput, weighted by their charges: what the run made of the time that steps answer for.
//
// This MFU is the customary one: exposed communication, bubbles and imbalance lower it; that they
// are no factor of their own does not hide them, they are in the tables.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/goodput/attribution.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/projection.h"

namespace muster::runtime {

using NamedDeviceNs = std::pair<std::string, DeviceNs>;

struct ReportOptions {
  bool amortise_start_up = false;  // among the kept steps, instead of a line of its own
  bool project = false;            // into the JSON object, too
};

// The mean of the steps' goodput, weighted by their charges, and its four factors.
struct StepsGoodput {
  DeviceNs charged = 0;
  std::optional<double> mean, mfu;  // nullopt: some rank states no peak
  double availability = 0, non_stall = 0, non_rework = 0;
};

struct RunReport {
  std::string run;  // as the user named it
  Attribution attribution;
  ReportOptions options;
  std::vector<std::string> notes;   // damage found, files left out
  std::vector<std::string> errors;  // what cannot be: a step with a goodput outside of (0, 1]

  // Each device-ns under one name: the parts of kept steps by their time category, rework, skipped,
  // lost_partial, then the states. Sums to attribution.allocated.
  std::vector<NamedDeviceNs> by_category;
  // The same, by what to do about it: all but the compute of kept steps.
  std::vector<NamedDeviceNs> lost_by_cause;

  DeviceNs working = 0, unstalled = 0, useful = 0;
  double availability = 0, non_stall = 0, non_rework = 0;
  std::optional<double> mfu, goodput;  // nullopt: some rank states no peak
  // As mfu, with all FLOPs that the kept steps' devices did: the recomputed ones, too. nullopt: not
  // known, as in a run without a kept step.
  std::optional<double> hfu;
  double mean_peak_flops = 0;  // P; 0 if not known
  StepsGoodput steps;
  std::vector<NamedDeviceNs> uncharged;  // with steps.charged, sums to attribution.allocated
  int64_t steps_at_risk = 0;
  DeviceNs at_risk = 0;  // of their executions
  // Kept steps' compute, less what it would take at the peak: device-seconds.
  std::optional<double> compute_below_peak_seconds;

  // Waiting x devices: in the scheduler's queue, as far as it tells, and between attempts.
  DeviceNs queue = 0;
  double ettr = 0;  // productive / (queue + allocated) (Kokolis et al. 2024, ETTR)
  double tokens_per_second = 0, tokens_per_device_hour = 0;  // of kept steps, over allocated time
  int failures = 0;                                          // attempts
  std::optional<double> mean_time_to_failure_seconds;        // attempts' time / failures
  // By a supervisor: from a failure to its notice. Without one: of a dead rank's device, until the
  // attempt's end.
  std::optional<double> mean_time_to_detect_seconds;
  // From the notice, or the attempt's end if nobody noticed, to the next attempt's first step.
  std::optional<double> mean_time_to_restart_seconds;
  // What failures cost, by their kind, largest first: lost steps, steps of any attempt before that
  // had to be done again, detection, teardown and the next attempt's start-up. A part of
  // lost_by_cause, not beside it.
  std::vector<NamedDeviceNs> lost_by_failure;
  // Times of different hosts agree within this; 0: all are of one clock. nullopt: not known, as
  // they were placed by wall clocks.
  std::optional<int64_t> clock_bound_ns = 0;
  int commits = 0;                               // checkpoints
  int saves_put_off = 0;                         // that were due while the one before was in flight
  std::optional<double> mean_seconds_to_commit;  // from rank 0's snapshot, where that is known
  std::optional<double> mean_stall_seconds_of_checkpoint;  // of a device, for each commit
  std::optional<int64_t> steps_between_checkpoints;        // snapshots of one attempt: the median
};

// Errors: those of Attribute.
absl::StatusOr<RunReport> MakeReport(const std::string& run, RunLedger ledger,
                                     const ReportOptions& options = {});

// Reads the run's ledgers. Errors: those of ReadLedger and MakeReport.
absl::StatusOr<RunReport> ReportOf(const std::string& run_directory,
                                   const ReportOptions& options = {});

// Seconds with all nine decimals that are not trailing zeros: "1.5", "0.000000001".
std::string DecimalSeconds(DeviceNs ns);

// The run's own times for a projection, M left open. Errors: FailedPrecondition if no checkpoint
// was committed, or its ledger does not tell how long that took.
absl::StatusOr<FailureModel> FailureModelOf(const RunReport& report);

// The closed form beside what became of the run since its first step, with its own interval and
// its own M: all that time over all restarts, after whatever ended an attempt.
struct OwnProjection {
  FailureModel model;
  double interval_seconds = 0;  // tau: of work between two snapshots
  double projected = 0;         // G
  double kept = 0;              // time of kept steps / all time, that between attempts included
};
// Errors: FailedPrecondition without a restart, without two snapshots in an attempt, or if the kept
// steps took no time.
absl::StatusOr<OwnProjection> ProjectionOfRun(const RunReport& report);

// A line for people.
std::string OwnProjectionText(const OwnProjection& own);

// For people, at most 100 columns.
std::string RenderText(const RunReport& report);
// One object. Its device_seconds sum exactly to its allocated_device_seconds, as decimals.
std::string RenderJson(const RunReport& report);

}  // namespace muster::runtime
