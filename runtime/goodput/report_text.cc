#include <algorithm>
#include <bit>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/goodput/attempt_end.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/number_text.h"
#include "runtime/goodput/report.h"

namespace muster::runtime {
namespace {

constexpr int kKept = static_cast<int>(StepFate::kProductive);
constexpr size_t kNameColumns = 30, kSecondsColumns = 18, kShareColumns = 11;
constexpr int64_t kShownGapNs = 5'000'000;  // shorter ones would be printed as 0.00 s
constexpr size_t kMaxStepRows = 12;

double Seconds(DeviceNs ns) { return static_cast<double>(ns) / 1e9; }

double Percent(DeviceNs part, DeviceNs whole) {
  return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string Spaced(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

std::string Row(const std::string& name, DeviceNs part, DeviceNs whole) {
  return absl::StrCat("  ", PadRight(name, kNameColumns),
                      PadLeft(WithThousands(Seconds(part), 3), kSecondsColumns),
                      PadLeft(Fixed(Percent(part, whole), 2), kShareColumns), " %\n");
}

std::string Heading(const std::string& name) {
  return absl::StrCat(PadRight(name, kNameColumns + 2), PadLeft("device-seconds", kSecondsColumns),
                      PadLeft("share", kShareColumns + 2), "\n");
}

std::string FlopRate(double flops) {
  const std::pair<double, const char*> units[] = {
      {1e15, " PFLOP/s"}, {1e12, " TFLOP/s"}, {1e9, " GFLOP/s"}};
  for (const auto& [size, name] : units) {
    if (flops >= size) return absl::StrCat(Fixed(flops / size, 1), name);
  }
  return absl::StrCat(Fixed(flops / 1e6, 1), " MFLOP/s");
}

std::string Title(const RunReport& report) {
  const Attribution& run = report.attribution;
  double wall = 0;
  int devices = 0;
  int64_t spares = 0;
  for (const AttributedAttempt& attempt : run.attempts) {
    wall += Seconds(attempt.end_ns - attempt.begin_ns);
    devices = std::max(devices, attempt.world_size);
    spares = std::max(spares, attempt.spare_devices);
  }
  const size_t attempts = run.attempts.size();
  return absl::StrCat("Run ", report.run, "\n", attempts, attempts == 1 ? " attempt" : " attempts",
                      ", ", devices, devices == 1 ? " device" : " devices",
                      spares == 0 ? "" : absl::StrCat(" and ", spares, " spare"), ", ",
                      DurationText(wall), " (", WithThousands(Seconds(run.allocated) / 3600, 3),
                      " device-hours), ", run.productive_steps, " steps kept\n\n");
}

bool AnyRankCameUp(const Attribution& run) {
  return std::any_of(run.attempts.begin(), run.attempts.end(),
                     [](const AttributedAttempt& attempt) { return attempt.ranks_with_log > 0; });
}

std::string GoodputText(const RunReport& report) {
  const Attribution& run = report.attribution;
  std::string text;
  if (report.goodput) {
    text = absl::StrCat("Goodput ", Fixed(*report.goodput, 4), "  of ",
                        FlopRate(report.mean_peak_flops), " a device");
    for (const std::string& label : run.peak_labels) absl::StrAppend(&text, " (", label, ")");
  } else {
    text = AnyRankCameUp(run)
               ? "Goodput is not known: a rank states no peak FLOP/s (config: goodput.peak)"
               : "Goodput is not known: no rank left a ledger";
  }
  const std::string mfu = report.mfu ? Fixed(*report.mfu, 4) : "unknown";
  const std::string hfu = report.hfu ? Fixed(*report.hfu, 4) : "unknown";
  absl::StrAppend(&text, "\n  = availability  ", Fixed(report.availability, 4),
                  "   in steps, evaluation or checkpoint stalls\n", "  x non-stall     ",
                  Fixed(report.non_stall, 4),
                  "   of that, not waiting for data, checkpoint or evaluation\n",
                  "  x non-rework    ", Fixed(report.non_rework, 4),
                  "   of that, in steps that the run kept\n", "  x MFU           ", mfu,
                  "   of the peak, in those (HFU ", hfu, ": with what was recomputed)\n\n");
  return text;
}

std::string StepsGoodputText(const RunReport& report) {
  const StepsGoodput& steps = report.steps;
  if (steps.charged == 0) return "";
  const auto number = [](const std::optional<double>& value) {
    return value ? Fixed(*value, 4) : std::string("unknown");
  };
  std::string text = absl::StrCat("A step's goodput ", number(steps.mean),
                                  ", the mean weighted by what steps are charged with\n",
                                  "  = availability ", Fixed(steps.availability, 4),
                                  " x non-stall ", Fixed(steps.non_stall, 4), " x non-rework ",
                                  Fixed(steps.non_rework, 4), " x MFU ", number(steps.mfu), "\n\n");
  StepCharge sum;
  for (const AttributedStep& step : report.attribution.steps) sum += step.charge;
  const DeviceNs allocated = report.attribution.allocated;
  text += Heading("Charged to steps");
  for (const auto& [name, ns] : {std::pair{"executions kept", sum.execution},
                                 {"executions rolled back", sum.rework},
                                 {"failures", sum.failure},
                                 {"start up", sum.start_up}}) {
    if (ns != 0) text += Row(name, ns, allocated);
  }
  std::string none;
  for (const auto& [name, ns] : report.uncharged) {
    if (ns != 0) none += Row(Spaced(name), ns, allocated);
  }
  if (!none.empty()) absl::StrAppend(&text, "To none of them\n", none);
  if (report.steps_at_risk > 0) {
    absl::StrAppend(&text, "At risk: ", report.steps_at_risk,
                    report.steps_at_risk == 1 ? " kept step, " : " kept steps, ",
                    WithThousands(Seconds(report.at_risk), 3),
                    " device-seconds; no committed checkpoint covers ",
                    report.steps_at_risk == 1 ? "it\n" : "them\n");
  }
  return text + "\n";
}

// Names of one kind stay together; those without time are left out.
std::string CategoryText(const RunReport& report) {
  const Attribution& run = report.attribution;
  const DeviceTime& total = run.total;
  std::string text = Heading("Where the time went");
  text += Row("steps kept", total.At(StepFate::kProductive), run.allocated);
  for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
    const DeviceNs ns = total.step[kKept][c];
    const std::string name = Spaced(Name(static_cast<parallel::TimeCategory>(c)));
    if (ns != 0) text += Row("  " + name, ns, run.allocated);
  }
  for (size_t i = parallel::kNumTimeCategories; i < report.by_category.size(); ++i) {
    const auto& [name, ns] = report.by_category[i];
    if (ns != 0) text += Row(Spaced(name), ns, run.allocated);
  }
  return text + Row("allocated", run.allocated, run.allocated) + "\n";
}

std::string LossText(const RunReport& report) {
  std::vector<NamedDeviceNs> losses = report.lost_by_cause;
  std::stable_sort(losses.begin(), losses.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text = Heading("Lost by cause");
  for (const auto& [name, ns] : losses) {
    if (ns != 0) text += Row(Spaced(name), ns, report.attribution.allocated);
  }
  if (report.compute_below_peak_seconds) {
    // Of a ledger that is wrong about its FLOPs it may be anything.
    const auto ns =
        static_cast<DeviceNs>(std::clamp(*report.compute_below_peak_seconds * 1e9, -1e36, 1e36));
    text += Row("compute below the peak", ns, report.attribution.allocated);
  }
  return text + "\n";
}

std::string LocalTime(int64_t realtime_ns) {
  const time_t seconds = realtime_ns / 1'000'000'000;
  tm local{};
  char text[32] = "?";
  if (localtime_r(&seconds, &local) != nullptr) {
    strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local);
  }
  return text;
}

// A line of its own under an attempt, cut to the width of the page.
std::string Remark(const std::string& sentence) {
  constexpr size_t kIndent = 11, kColumns = 100;
  if (sentence.empty()) return "";
  return absl::StrCat(std::string(kIndent, ' '), sentence.substr(0, kColumns - kIndent), "\n");
}

std::string SchedulerText(const AttributedAttempt& attempt) {
  const SchedulerJob& job = attempt.scheduler;
  std::string text = absl::StrCat("Slurm job ", job.id);
  if (job.restarts > 0)
    absl::StrAppend(&text, ", requeued ",
                    job.restarts == 1 ? "once" : absl::StrCat(job.restarts, " times"));
  if (job.started_s == 0) return text + ", which does not say when it started";
  if (attempt.queued_ns > 0) {
    absl::StrAppend(&text, ", queued for ", DurationText(Seconds(attempt.queued_ns)));
  }
  return absl::StrCat(text, ", started ", DurationText(Seconds(attempt.alloc_wait_ns)),
                      " before the attempt");
}

std::string AttemptsText(const RunReport& report) {
  std::string text =
      absl::StrCat(PadLeft("attempt", 9), "  ", PadRight("began", 21), PadLeft("devices", 7),
                   PadLeft("lasted", 13), PadLeft("steps", 15), "  how it ended\n");
  const SchedulerJob* scheduler = nullptr;
  for (const AttributedAttempt& attempt : report.attribution.attempts) {
    std::string steps = "none";
    if (attempt.completed_steps > 0) {
      steps = absl::StrCat(*attempt.first_step, "-", *attempt.last_step);
    }
    absl::StrAppend(&text, PadLeft(std::to_string(attempt.attempt), 9), "  ",
                    PadRight(LocalTime(attempt.begin_realtime_ns), 21),
                    PadLeft(std::to_string(attempt.world_size), 7),
                    PadLeft(DurationText(Seconds(attempt.end_ns - attempt.begin_ns)), 13),
                    PadLeft(steps, 15), "  ", HowItEnded(attempt), "\n");
    if (!attempt.scheduler.id.empty() &&
        (scheduler == nullptr || !(*scheduler == attempt.scheduler))) {
      text += Remark(SchedulerText(attempt));
    }
    scheduler = &attempt.scheduler;
    if (!attempt.spares_in.empty()) {
      text += Remark("came in: " + absl::StrJoin(attempt.spares_in, " "));
    }
    if (Failed(attempt) && attempt.failure) text += Remark(attempt.failure->evidence);
    if (Failed(attempt) && !attempt.exits.empty()) text += Remark("ended: " + ExitsText(attempt));
    for (const Failure& slow : attempt.stragglers) text += Remark(slow.evidence);
    if (attempt.gap_before_ns >= kShownGapNs) {
      absl::StrAppend(&text, std::string(11, ' '), "began ",
                      DurationText(Seconds(attempt.gap_before_ns)),
                      " after the attempt before ended (not allocated, not counted)",
                      attempt.gap_by_wall_clock ? ", by wall clocks" : "", "\n");
    }
  }
  if (!report.clock_bound_ns) {
    text += "  Hosts' times were put side by side by their wall clocks; how well is not known.\n";
  } else if (*report.clock_bound_ns > 0) {
    absl::StrAppend(&text, "  Hosts' times were put side by side to within ",
                    Fixed(static_cast<double>(*report.clock_bound_ns) * 1e-6, 3), " ms.\n");
  }
  return text + "\n";
}

std::string Mean(const std::optional<double>& seconds) {
  return seconds ? DurationText(*seconds) : "unknown";
}

std::string CheckpointsText(const RunReport& report) {
  if (report.commits == 0) return "";
  return absl::StrCat("Checkpoints ", report.commits, "   mean time to commit ",
                      Mean(report.mean_seconds_to_commit), ", stall of a device ",
                      Mean(report.mean_stall_seconds_of_checkpoint), "\n");
}

std::string RatesText(const RunReport& report) {
  std::string text = absl::StrCat(
      "Tokens/s ", WithThousands(report.tokens_per_second, 0), "   tokens per device-hour ",
      WithThousands(report.tokens_per_device_hour, 0), "   ETTR ", Fixed(report.ettr, 4), "\n");
  if (report.queue > 0) {
    absl::StrAppend(&text, "Queued or between attempts ", WithThousands(Seconds(report.queue), 3),
                    " device-seconds, which ETTR counts beside what was allocated\n");
  }
  text += CheckpointsText(report);
  if (report.failures == 0) return text + "\n";
  absl::StrAppend(&text, "Failures ", report.failures, "   mean time to failure ",
                  Mean(report.mean_time_to_failure_seconds), ", to detect ",
                  Mean(report.mean_time_to_detect_seconds), ", to restart ",
                  Mean(report.mean_time_to_restart_seconds), "\n");
  for (const auto& [kind, ns] : report.lost_by_failure) {
    text += Row("lost to " + Spaced(kind), ns, report.attribution.allocated);
  }
  return text + "\n";
}

std::string StepRow(const AttributedStep& step, double mean_peak) {
  using namespace parallel;
  const auto share = [&step](DeviceNs ns) {
    return PadLeft(Fixed(Percent(ns, step.device_ns), 1), 8);
  };
  const auto& t = step.time_ns;
  const DeviceNs comm =
      t[kExposedDp] + t[kExposedTp] + t[kExposedCp] + t[kExposedPp] + t[kExposedEp];
  const double device_seconds = Seconds(step.device_ns);
  const double possible = device_seconds * mean_peak;
  const std::string mfu = possible > 0 ? Fixed(100 * step.model_flops / possible, 1) : "?";
  const std::optional<double> goodput = StepGoodput(step);
  return absl::StrCat(
      PadLeft(std::to_string(step.step), 9), PadLeft(std::to_string(step.attempt), 8),
      PadLeft(Fixed(std::bit_cast<double>(step.loss_bits), 4), 9),
      PadLeft(Fixed(step.ranks > 0 ? device_seconds / step.ranks : 0, 3), 9), PadLeft(mfu, 7),
      PadLeft(goodput ? Fixed(100 * *goodput, 1) : "?", 9), share(t[kCompute]), share(comm),
      share(t[kBubble]), share(t[kImbalance]), share(t[kData]), share(t[kOptimizer]), "\n");
}

// Kept steps, evenly spaced from the first to the last.
std::string StepsText(const RunReport& report) {
  std::vector<const AttributedStep*> kept;
  for (const AttributedStep& step : report.attribution.steps) {
    if (step.fate == StepFate::kProductive) kept.push_back(&step);
  }
  if (kept.empty()) return "";
  std::string text = absl::StrCat("Steps kept, of ", kept.size(),
                                  " (from compute on: percent of the step's device time)\n",
                                  PadLeft("step", 9), PadLeft("attempt", 8), PadLeft("loss", 9),
                                  PadLeft("seconds", 9), PadLeft("MFU %", 7), PadLeft("good. %", 9),
                                  " compute    comm  bubble  imbal.    data  optim.\n");
  const size_t rows = std::min(kept.size(), kMaxStepRows);
  for (size_t row = 0; row < rows; ++row) {
    const size_t index = rows == 1 ? 0 : row * (kept.size() - 1) / (rows - 1);
    text += StepRow(*kept[index], report.mean_peak_flops);
  }
  return text + "\n";
}

}  // namespace

std::string OwnProjectionText(const OwnProjection& own) {
  return absl::StrCat("This run: a restart in ", DurationText(own.model.mttf_seconds),
                      ", a snapshot after each ", DurationText(own.interval_seconds),
                      " of work: ", Fixed(own.projected, 3), " projected, ", Fixed(own.kept, 3),
                      " kept\n");
}

std::string RenderText(const RunReport& report) {
  std::string text = Title(report) + GoodputText(report) + StepsGoodputText(report) +
                     CategoryText(report) + LossText(report) + AttemptsText(report) +
                     RatesText(report) + StepsText(report);
  const double unknown =
      Percent(report.attribution.total.At(State::kUnknown), report.attribution.allocated);
  if (unknown > 0.5) {
    absl::StrAppend(&text, "Note: ", Fixed(unknown, 2),
                    " % of the time has no name; 0.5 % is what should be bearable.\n");
  }
  if (report.saves_put_off > 0) {
    absl::StrAppend(&text, "Note: ", report.saves_put_off,
                    report.saves_put_off == 1 ? " save" : " saves",
                    " came due while the one before was still being written, and had to wait.\n");
  }
  for (const std::string& note : report.notes) absl::StrAppend(&text, "Note: ", note, "\n");
  while (text.ends_with("\n\n")) text.pop_back();
  return text;
}

}  // namespace muster::runtime
