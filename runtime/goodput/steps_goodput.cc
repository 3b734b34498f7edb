#include "runtime/goodput/steps_goodput.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/number_text.h"

namespace muster::runtime {
namespace {

constexpr char kMeasuredPeak[] = "peak=measured";

double Ratio(DeviceNs part, DeviceNs whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

void CheckRange(RunReport* report) {
  const Attribution& run = report->attribution;
  const bool measured =
      std::any_of(run.peak_labels.begin(), run.peak_labels.end(),
                  [](const std::string& label) { return label.starts_with(kMeasuredPeak); });
  int64_t outside = 0;
  const AttributedStep* worst = nullptr;
  for (const AttributedStep& step : run.steps) {
    const std::optional<double> goodput = StepGoodput(step);
    if (!goodput || (*goodput > 0 && *goodput <= 1)) continue;
    ++outside;
    if (worst == nullptr || *goodput > StepGoodput(*worst)) worst = &step;
  }
  if (worst == nullptr) return;
  const double goodput = *StepGoodput(*worst);
  std::string text = absl::StrCat(
      "step ", worst->step, " of attempt ", worst->attempt, " has a goodput of ", Fixed(goodput, 4),
      ", wanted more than 0 and at most 1: ", Scientific(worst->model_flops, 4),
      " model FLOPs, charged with ", DecimalSeconds(worst->charge.Total()), " device-seconds of ",
      Scientific(worst->peak_flops, 4), " FLOP/s");
  if (outside > 1) absl::StrAppend(&text, "; ", outside - 1, " more such steps");
  if (goodput > 0 && measured) {
    report->notes.push_back(absl::StrCat(text, "; the peak was measured too low"));
  } else {
    report->errors.push_back(
        absl::StrCat(text, goodput > 0 ? "; the peak is too low, or FLOPs or time are booked wrong"
                                       : "; it is booked as kept, but without FLOPs"));
  }
}

}  // namespace

void SetStepsGoodput(RunReport* report) {
  const Attribution& run = report->attribution;
  const Uncharged& rest = run.uncharged;
  report->uncharged = {{"start_up", rest.start_up},
                       {"teardown", rest.teardown},
                       {"unrecovered", rest.unrecovered},
                       {"lost_partial", rest.lost_partial},
                       {"evaluation", rest.evaluation},
                       {"checkpoint_stall", rest.checkpoint_stall},
                       {"alloc_wait", rest.alloc_wait},
                       {"spare_idle", rest.spare_idle},
                       {"drain", rest.drain},
                       {"unknown", rest.unknown}};
  StepsGoodput& steps = report->steps;
  DeviceNs executed = 0;
  double seconds_at_peak = 0;  // that the kept steps' FLOPs take
  bool knows_peaks = true;
  for (const AttributedStep& step : run.steps) {
    steps.charged += step.charge.Total();
    executed += step.charge.execution + step.charge.rework;
    if (step.at_risk) {
      ++report->steps_at_risk;
      report->at_risk += step.charge.execution;
    }
    if (step.fate != StepFate::kProductive) continue;
    knows_peaks = knows_peaks && step.peak_flops > 0;
    if (knows_peaks) seconds_at_peak += step.model_flops / step.peak_flops;
  }
  const DeviceNs unstalled = report->unstalled - run.total.lost_partial;
  steps.availability = Ratio(executed, steps.charged);
  steps.non_stall = Ratio(unstalled, executed);
  steps.non_rework = Ratio(report->useful, unstalled);
  if (knows_peaks && steps.charged > 0) {
    const double useful_seconds = static_cast<double>(report->useful) * 1e-9;
    steps.mean = seconds_at_peak / (static_cast<double>(steps.charged) * 1e-9);
    steps.mfu = useful_seconds > 0 ? seconds_at_peak / useful_seconds : 0;
  }
  CheckRange(report);
}

}  // namespace muster::runtime
