#pragma once
// What a simulated run charges its steps with for failures, written as the formula says it: of each
// two attempts that executed steps, with others between them that did not, all that lies between
// their steps. Shares no code with runtime/goodput/charge.h.
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "runtime/goodput/attribution.h"

namespace muster::runtime {

struct SimulatedAttempt {
  DeviceNs start_up = 0;              // launch to warm-up
  DeviceNs ending = 0;                // detect and teardown
  bool failed = false;                // or was planned to end, or is open
  std::optional<int64_t> first_step;  // that it went on with, though it may not have begun it
  std::vector<int64_t> undone;        // steps that it was the first to roll back, ascending
};

// `executed`: the steps that any attempt began. Adds the shares of failures to `charges`, by step,
// and what no step is charged with of start-up, teardown and failures to `rest`.
void AddFailures(const std::vector<SimulatedAttempt>& attempts, const std::set<int64_t>& executed,
                 std::map<int64_t, StepCharge>* charges, Uncharged* rest);

}  // namespace muster::runtime
