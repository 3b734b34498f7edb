#include "runtime/goodput/charge.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/goodput/attempt_end.h"

namespace muster::runtime {
namespace {

// Evenly, in integers; the first takes the remainder.
template <typename Take>
void Divide(DeviceNs whole, const std::vector<AttributedStep*>& steps, Take take) {
  const DeviceNs share = whole / static_cast<DeviceNs>(steps.size());
  DeviceNs rest = whole - share * static_cast<DeviceNs>(steps.size());
  for (AttributedStep* step : steps) {
    take(step->charge, share + rest);
    rest = 0;
  }
}

class FailureCharger {
 public:
  explicit FailureCharger(Attribution* run) : run_(*run) {
    for (AttributedStep& step : run_.steps) steps_[step.step] = &step;
  }

  void Run() {
    for (size_t a = 0; a < run_.attempts.size(); ++a) {
      const AttributedAttempt& attempt = run_.attempts[a];
      // With or without failures a run starts once.
      (a == 0 ? run_.uncharged.start_up : start_up_) += attempt.time.StartUp();
      if (a > 0 && attempt.first_step) Settle(a);
      ending_ += attempt.time.At(State::kDetect) + attempt.time.At(State::kTeardown);
      failed_ = failed_ || Failed(attempt);
    }
    if (failed_) {
      run_.uncharged.unrecovered += std::exchange(ending_, 0) + std::exchange(start_up_, 0);
    }
    LeaveUncharged();
  }

 private:
  // Attempt `a` goes on with a step: whoever pays for what lies between it and the last that did.
  void Settle(size_t a) {
    std::vector<AttributedStep*> payers = RolledBackBy(a);
    if (payers.empty() && failed_) {
      const auto first_new = steps_.find(*run_.attempts[a].first_step);
      if (first_new == steps_.end()) return;  // it died before that step: the next one settles
      payers.push_back(first_new->second);
    }
    if (payers.empty()) {
      LeaveUncharged();
    } else {
      Divide(ending_ + start_up_, payers,
             [](StepCharge& charge, DeviceNs share) { charge.failure += share; });
    }
    ending_ = start_up_ = 0;
    failed_ = false;
  }

  // What an end that was planned cost, and the start after it.
  void LeaveUncharged() {
    run_.uncharged.teardown += ending_;
    run_.uncharged.start_up += start_up_;
  }

  // The steps, ascending, that attempt `a` is the first to undo; sums up their time.
  std::vector<AttributedStep*> RolledBackBy(size_t a) {
    const int64_t first = *run_.attempts[a].first_step;
    std::set<int64_t> numbers;
    for (size_t before = 0; before < a; ++before) {
      std::map<int64_t, DeviceNs>& undone =
          undone_.emplace(before, run_.attempts[before].undone_steps).first->second;
      const auto from = undone.lower_bound(first);
      for (auto step = from; step != undone.end(); ++step) {
        numbers.insert(step->first);
        run_.attempts[a].rolled_back += step->second;
      }
      undone.erase(from, undone.end());
    }
    std::vector<AttributedStep*> steps;
    for (const int64_t number : numbers) steps.push_back(steps_.at(number));
    return steps;
  }

  Attribution& run_;
  std::map<int64_t, AttributedStep*> steps_;
  // By attempt: the steps that are still to be undone.
  std::map<size_t, std::map<int64_t, DeviceNs>> undone_;
  DeviceNs ending_ = 0, start_up_ = 0;  // since the last attempt that went on with a step
  bool failed_ = false;
};

}  // namespace

void ChargeFailures(Attribution* run) {
  Uncharged& uncharged = run->uncharged;
  uncharged = {};
  uncharged.lost_partial = run->total.lost_partial;
  uncharged.evaluation = run->total.At(State::kEval);
  uncharged.checkpoint_stall = run->total.At(State::kCheckpointStall);
  uncharged.alloc_wait = run->total.At(State::kAllocWait);
  uncharged.spare_idle = run->total.At(State::kSpareIdle);
  uncharged.drain = run->total.At(State::kDrain);
  uncharged.unknown = run->total.At(State::kUnknown);
  FailureCharger(run).Run();
}

void AmortiseStartUp(Attribution* run) {
  std::vector<AttributedStep*> kept;
  for (AttributedStep& step : run->steps) {
    if (step.fate == StepFate::kProductive) kept.push_back(&step);
  }
  if (kept.empty()) return;
  Divide(run->uncharged.start_up, kept,
         [](StepCharge& charge, DeviceNs share) { charge.start_up += share; });
  run->uncharged.start_up = 0;
}

absl::Status CheckConserved(const Attribution& run) {
  const auto seconds = [](DeviceNs ns) { return static_cast<double>(ns) * 1e-9; };
  DeviceNs charged = 0;
  for (const AttributedStep& step : run.steps) charged += step.charge.Total();
  if (run.total.Total() == run.allocated && charged + run.uncharged.Total() == run.allocated) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      "time is not conserved: the categories sum to ", seconds(run.total.Total()),
      " device-seconds, charges to ", seconds(charged), " with ", seconds(run.uncharged.Total()),
      " uncharged, allocated were ", seconds(run.allocated), "; this is a bug in attribution"));
}

std::optional<double> StepGoodput(const AttributedStep& step) {
  const DeviceNs charge = step.charge.Total();
  if (step.fate != StepFate::kProductive || charge <= 0 || !(step.peak_flops > 0)) {
    return std::nullopt;
  }
  return step.model_flops / (static_cast<double>(charge) * 1e-9 * step.peak_flops);
}

}  // namespace muster::runtime
