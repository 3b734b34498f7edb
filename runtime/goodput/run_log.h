#pragma once
// What a run's ledgers say, freed of files: the input of attribution. A rank's phases tile the time
// from its first state to its end by construction, since each begins where the one before ends.
// Within an attempt all times are ns of one clock, the reference rank's monotonic one.
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "parallel/comm/time_category.h"
#include "runtime/goodput/clock.h"
#include "runtime/goodput/failure.h"
#include "runtime/goodput/ledger.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::runtime {

struct Phase {
  int64_t begin_ns = 0;
  State state = State::kUnknown;
  int step_index = -1;  // kStep: of RankLog::steps
};

struct StepExecution {
  int64_t step = 0;
  bool finished = false;  // an end record exists; the rest is of that record
  bool skipped = false;
  std::array<int64_t, parallel::kNumTimeCategories> time_ns{};  // tiles the phase
  double model_flops = 0;                                       // of this rank
  double hardware_flops = 0;                                    // 0: not known
  int64_t tokens = 0;                                           // of the global batch
  int64_t first_sequence = 0, num_sequences = 0;                // of it; 0 sequences: not known
  uint64_t loss_bits = 0, grad_norm_bits = 0;
};

// Instants; they tile nothing.
struct CheckpointMark {
  int64_t at_ns = 0;
  CheckpointEvent event;
};
struct SkipMark {
  int64_t at_ns = 0, step = 0;
  std::string reason;
};

struct RankLog {
  int rank = 0;
  std::string host, peak_label;
  double peak_flops = 0;  // 0: not known
  int64_t process_start_ns = 0;
  std::vector<Phase> phases;         // begin_ns never falls, from process_start_ns on
  std::vector<StepExecution> steps;  // in the order of execution
  std::vector<CheckpointMark> checkpoints;
  std::vector<SkipMark> skips;
  int64_t end_ns = 0;                // the last record; a supervisor may know a later exit
  std::optional<int32_t> exit_code;  // none: it died, hangs, or still runs; kNoExitCode: see ledger
};

struct AttemptLog {
  int attempt = 0;
  int world_size = 1;          // devices; ranks without a log are booked as unknown
  std::vector<RankLog> ranks;  // by rank
  // Known only where a supervisor watched: its begin and end of the attempt, and when it began to
  // kill (what a dead rank's device waits for is detect until then and teardown after).
  std::optional<int64_t> begin_ns, end_ns, kill_ns;
  // The step that the attempt goes on with, though it may not have begun it: known once its ranks
  // have restored, or found nothing to restore.
  std::optional<int64_t> resume_step;
  std::optional<Failure> failure;      // what a supervisor saw end it, or ended it for
  std::vector<Failure> stragglers;     // that it named on the way
  std::vector<RankExit> exits;         // that it saw
  std::vector<std::string> spares_in;  // hosts that came in with this attempt
  std::vector<AttemptHost> hosts;      // all that the job had, as the supervisor knows
  SchedulerJob scheduler;
  // Between the start of the scheduler's job and the begin of its first attempt, by wall clocks.
  int64_t alloc_wait_ns = 0;
  // Of the run's first attempt: from submission to that start. Not allocated.
  int64_t queued_ns = 0;
  ClockId clock;  // whose monotonic clock the times are of
  // Times of other clocks may lie so far from where they belong; 0: all are of one; nullopt: not
  // known, they were placed by wall clocks.
  std::optional<int64_t> clock_bound_ns = 0;
  // Since the end of the attempt before: no rank ran. Not allocated here.
  int64_t gap_before_ns = 0;
  bool gap_by_wall_clock = false;
  // For people; durations are computed from them only where gap_by_wall_clock says so.
  int64_t begin_realtime_ns = 0, end_realtime_ns = 0;
  // The supervisor that watched, and its begin and end of the attempt on its own clock; -1: none.
  int supervisor = -1;
  int64_t supervisor_begin_ns = 0;
  std::optional<int64_t> supervisor_end_ns;
};

struct RunLog {
  std::vector<AttemptLog> attempts;  // by attempt number
};

// Errors: InvalidArgument, naming attempt and rank, if attempts or ranks are not in order, a clock
// runs backwards, the parts of a step do not tile it, or an attempt goes on with a step of which an
// earlier one says that it lies elsewhere in the data: step numbers would then not tell what was
// done again (docs/adr/0012-rework-by-step-number.md).
absl::Status CheckRunLog(const RunLog& log);

}  // namespace muster::runtime
