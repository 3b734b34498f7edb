#pragma once
// One step of all ranks in one file, as Chrome's trace event format has it: a process per rank, a
// row per stream, an interval per operator, collective and span, times on one clock. Perfetto
// (ui.perfetto.dev) and chrome://tracing open it.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/trace.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/goodput/clock.h"

namespace muster::runtime {

struct TracedRank {
  int rank = 0;
  std::string label;  // "rank 3 of 4 on node1"
  std::vector<std::string> rows;
  std::vector<kernels::Trace::Interval> intervals;
  int64_t dropped = 0;    // intervals that had no room
  int64_t origin_ns = 0;  // time 0, in this rank's clock
  int64_t uncertainty_ns = 0;
};
// Pure: the rank's events, a line each, with a comma behind each. Numbers of processes and of rows
// begin at 1 and 256, and no two ranks have the same.
std::string TraceEvents(const TracedRank& rank);

class StepTrace {
 public:
  // Collective. Ties the ranks' clocks to rank 0's (ranks of one kernel share a clock) and starts
  // to trace `rows`.
  static absl::StatusOr<std::unique_ptr<StepTrace>> Start(parallel::World& world,
                                                          std::vector<kernels::Trace::Row> rows);
  // Collective. Stops, and writes all ranks' intervals into `path`, which appears whole; the
  // directory is one that all ranks see. What goes wrong is logged: no trace is worth a run.
  void Write(const std::string& path);

 private:
  StepTrace(parallel::World& world, ClockOffset clock, int64_t origin_ns)
      : world_(world), clock_(clock), origin_ns_(origin_ns) {}
  absl::Status WritePart(const std::string& path);
  absl::Status Join(const std::string& path) const;
  parallel::World& world_;
  const ClockOffset clock_;
  const int64_t origin_ns_;  // in this rank's clock
  std::unique_ptr<kernels::Trace> trace_;
};

}  // namespace muster::runtime
