#pragma once
// Who pays for what: each step for its executions and for its share of what failures cost.
//
//   charge(s) = device-ns of the execution of s that survived + those of every execution of s that
//               was rolled back + s's share of each failure that rolled s back
//   G(s)      = model FLOPs(s) / (charge(s) x peak)
//
// A failure costs detect and teardown of the attempt that it ended, and the start-up of the next,
// launch to warm-up, of attempts that never executed a step as well. The steps that it rolled back
// share that evenly, in integers, and the first takes the remainder; if it rolled none back, the
// first new step takes all. A planned end and the start after it are no failure, unless steps were
// rolled back. The run's first start-up is a line of its own; AmortiseStartUp divides it, and those
// after planned ends, among the steps that the run kept.
//
// G is in (0, 1] where the peak is a limit. The mean of G weighted by charges is
// F / (sum of charges x P), and factors exactly as the run's goodput does: report.h.
#include <optional>

#include "absl/status/status.h"
#include "runtime/goodput/attribution.h"

namespace muster::runtime {

// Fills in the steps' charges for failures, what each attempt rolled back, and what is left
// uncharged; the steps' executions are there.
void ChargeFailures(Attribution* run);

// Divides the start-up that no step is charged with evenly among the kept steps. Without any it
// stays.
void AmortiseStartUp(Attribution* run);

// Whether each name's time, and charges with what is uncharged, sum to the allocated time. Errors:
// Internal, with the sums; that is our bug.
absl::Status CheckConserved(const Attribution& run);

// G(s); nullopt if the run did not keep it, or its peak is not known.
std::optional<double> StepGoodput(const AttributedStep& step);

}  // namespace muster::runtime
