#pragma once
// Training steps of a job: their speed, and where the time of one goes, operator by operator.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/trace.h"
#include "launch/bench/stopwatch.h"
#include "launch/bench/table.h"
#include "parallel/comm/rendezvous.h"
#include "runtime/job/config.h"

namespace muster::launch {

// The intervals that hold no other, summed by row, name and shape, the longest sum first; then
// "(idle)", the time of the first row between them. Percentages are of what the operator's FLOPs
// and bytes take at the ceilings.
std::vector<BenchRow> SumByOperator(const std::vector<kernels::Trace::Interval>& intervals,
                                    const std::vector<kernels::Trace::Row>& rows,
                                    const Ceilings& ceilings);

// Takes 5 steps to warm up, `steps` that are timed (their median counts) and one that is traced,
// which the table is of. Writes into `run_directory` as training does. All ranks call it; the
// table is that of the calling rank.
absl::StatusOr<BenchTable> BenchStep(const runtime::ResolvedJob& job, parallel::World& world,
                                     const std::string& run_directory, int steps);

}  // namespace muster::launch
