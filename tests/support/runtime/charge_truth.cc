#include "tests/support/runtime/charge_truth.h"

#include <algorithm>

namespace muster::runtime {
namespace {

// Of the attempts [from, to): between the steps of `from` and those of `to`.
struct Between {
  DeviceNs endings = 0, start_ups = 0;
  bool failed = false;
};

Between Look(const std::vector<SimulatedAttempt>& attempts, size_t from, size_t to) {
  Between between;
  for (size_t a = from; a < to; ++a) {
    between.endings += attempts[a].ending;
    between.failed = between.failed || attempts[a].failed;
    if (a + 1 < attempts.size()) between.start_ups += attempts[a + 1].start_up;
  }
  return between;
}

}  // namespace

void AddFailures(const std::vector<SimulatedAttempt>& attempts, const std::set<int64_t>& executed,
                 std::map<int64_t, StepCharge>* charges, Uncharged* rest) {
  rest->start_up += attempts[0].start_up;
  size_t from = 0;
  for (size_t to = 1; to < attempts.size(); ++to) {
    if (!attempts[to].first_step) continue;
    const Between between = Look(attempts, from, to);
    std::vector<int64_t> payers = attempts[to].undone;
    if (payers.empty() && between.failed) {
      if (!executed.contains(*attempts[to].first_step)) continue;  // nobody came so far
      payers = {*attempts[to].first_step};
    }
    if (payers.empty()) {
      rest->start_up += between.start_ups;
      rest->teardown += between.endings;
    }
    const DeviceNs whole = between.endings + between.start_ups;
    const auto n = static_cast<DeviceNs>(payers.size());
    for (const int64_t step : payers) {
      (*charges)[step].failure += whole / n + (step == payers[0] ? whole % n : 0);
    }
    from = to;
  }
  const Between open = Look(attempts, from, attempts.size());
  (open.failed ? rest->unrecovered : rest->teardown) += open.endings;
  (open.failed ? rest->unrecovered : rest->start_up) += open.start_ups;
}

}  // namespace muster::runtime
