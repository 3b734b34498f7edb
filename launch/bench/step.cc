#include "launch/bench/step.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/device/gauges.h"
#include "kernels/device/span.h"
#include "runtime/train/trainer.h"

namespace muster::launch {
namespace {

using kernels::Trace;
using runtime::StepMetrics;

// Seconds that the work takes at the ceilings.
double LimitSeconds(const kernels::TracedWork& work, const Ceilings& ceilings) {
  return std::max(work.flops / ceilings.matmul_flops, work.bytes / ceilings.copy_bytes);
}

bool BoundByProducts(const kernels::TracedWork& work, const Ceilings& ceilings) {
  return work.flops / ceilings.matmul_flops > work.bytes / ceilings.copy_bytes;
}

// Whether the interval after it in its row lies within it.
std::vector<bool> Inner(const std::vector<Trace::Interval>& intervals) {
  std::vector<bool> inner(intervals.size(), true);
  std::map<int, size_t> last;  // by row
  for (size_t i = 0; i < intervals.size(); ++i) {
    const auto before = last.find(intervals[i].row);
    if (before != last.end() && intervals[before->second].depth < intervals[i].depth) {
      inner[before->second] = false;
    }
    last[intervals[i].row] = i;
  }
  return inner;
}

// By clock, the middle one of those that are known.
kernels::GaugeReading MedianOf(std::vector<kernels::GaugeReading> readings) {
  std::erase_if(readings, [](const auto& reading) { return reading.sm_clock_mhz == 0; });
  if (readings.empty()) return {};
  const auto middle = readings.begin() + static_cast<std::ptrdiff_t>(readings.size() / 2);
  std::nth_element(readings.begin(), middle, readings.end(),
                   [](const auto& a, const auto& b) { return a.sm_clock_mhz < b.sm_clock_mhz; });
  return *middle;
}

// Seconds since the system started this process.
double ProcessSeconds() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // The name, in brackets, may have spaces; the start is field 22, in ticks since the host's.
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 -
         std::strtod(field.c_str(), nullptr) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void AddFacts(const runtime::ResolvedJob& job, const runtime::Trainer& trainer,
              const Ceilings& ceilings, const std::vector<StepMetrics>& steps, BenchTable& table) {
  const StepMetrics& median = steps[steps.size() / 2];
  const runtime::TrainingState& state = trainer.state();
  table.title = absl::StrCat("steps of ", job.job.name());
  table.facts = {
      {"device", DeviceText(state.device)},
      {"mesh", absl::StrCat(job.mesh.ToString(), " on ", job.mesh.world_size(), " ranks")},
      {"batch", absl::StrFormat("%d sequences of %d tokens, %d microbatches of %d a rank",
                                job.job.train().global_batch_sequences(), job.sequence_length,
                                job.job.schedule().microbatches(), job.microbatch_sequences)},
      {"step", absl::StrFormat("%.2f ms, median of %d (%.2f to %.2f)", median.step_seconds * 1e3,
                               steps.size(), steps.front().step_seconds * 1e3,
                               steps.back().step_seconds * 1e3)},
      {"tokens/s",
       absl::StrFormat(
           "%.0f, %.0f a rank", static_cast<double>(median.tokens) / median.step_seconds,
           static_cast<double>(median.tokens) / median.step_seconds / job.mesh.world_size())},
      {"MFU", absl::StrFormat("%.2f %% with causal attention counted half, %.2f %% in full",
                              100 * median.mfu, 100 * median.mfu_full_attention)},
      {"ceilings", CeilingText(ceilings, state.device)},
      {"of products",
       absl::StrFormat("%.2f %%: the step's model FLOPs at that rate",
                       100 * state.cost.flops_per_token() * static_cast<double>(median.tokens) /
                           job.mesh.world_size() / ceilings.matmul_flops / median.step_seconds)},
      {"memory", absl::StrFormat("%.1f MiB planned a rank",
                                 static_cast<double>(state.arena.bytes()) / 1048576.0)}};
}

}  // namespace

std::vector<BenchRow> SumByOperator(const std::vector<Trace::Interval>& intervals,
                                    const std::vector<Trace::Row>& rows, const Ceilings& ceilings) {
  struct Sum {
    int calls = 0;
    int64_t ns = 0;
    kernels::TracedWork work;
  };
  std::map<std::tuple<int, std::string, std::string>, Sum> sums;
  const std::vector<bool> inner = Inner(intervals);
  int64_t begin_ns = 0, end_ns = 0, busy_ns = 0;
  for (size_t i = 0; i < intervals.size(); ++i) {
    const Trace::Interval& interval = intervals[i];
    if (interval.row == 0) {
      if (begin_ns == 0) begin_ns = interval.begin_ns;
      end_ns = std::max(end_ns, interval.end_ns);
    }
    if (!inner[i]) continue;
    const int64_t ns = interval.end_ns - interval.begin_ns;
    if (interval.row == 0) busy_ns += ns;
    Sum& sum = sums[{interval.row, interval.name, interval.work.detail}];
    ++sum.calls;
    sum.ns += ns;
    sum.work.flops += interval.work.flops;
    sum.work.bytes += interval.work.bytes;
  }
  std::vector<BenchRow> table;
  for (const auto& [key, sum] : sums) {
    const auto& [row, name, detail] = key;
    BenchRow line = {.name = absl::StrCat(rows[static_cast<size_t>(row)].name, ": ", name,
                                          detail.empty() ? "" : " ", detail),
                     .calls = sum.calls,
                     .seconds = static_cast<double>(sum.ns) * 1e-9};
    const double limit = LimitSeconds(sum.work, ceilings);
    if (limit > 0 && line.seconds > 0) {
      const bool products = BoundByProducts(sum.work, ceilings);
      line.rate =
          products ? sum.work.flops / line.seconds * 1e-12 : sum.work.bytes / line.seconds * 1e-9;
      line.limit = line.rate * line.seconds / limit;
      line.unit = products ? "TFLOP/s" : "GB/s";
    }
    table.push_back(std::move(line));
  }
  std::sort(table.begin(), table.end(),
            [](const BenchRow& a, const BenchRow& b) { return a.seconds > b.seconds; });
  if (!rows.empty()) {
    table.push_back({.name = rows.front().name + ": (idle)",
                     .seconds = static_cast<double>(end_ns - begin_ns - busy_ns) * 1e-9});
  }
  return table;
}

absl::StatusOr<BenchTable> BenchStep(const runtime::ResolvedJob& job, parallel::World& world,
                                     const std::string& run_directory, int steps) {
  constexpr int kWarmUps = 5;
  constexpr int kMaxIntervals = 1 << 16;
  kernels::Device device;
  if (job.job.device() == runtime::CUDA) {
    device = {kernels::DeviceType::kCuda, world.local_rank()};
  }
  const double before_ceilings = ProcessSeconds();
  ASSIGN_OR_RETURN(const Ceilings ceilings,
                   MeasureCeilings(device, runtime::StorageDType(job.job.precision().compute())));
  const double ceiling_seconds = ProcessSeconds() - before_ceilings;
  ASSIGN_OR_RETURN(const std::unique_ptr<runtime::Trainer> trainer,
                   runtime::Trainer::Create(job, world,
                                            {.run_directory = run_directory,
                                             .process_start_ns = kernels::MonotonicNs()}));
  int64_t step = 0;
  RETURN_IF_ERROR(trainer->Step(++step));
  RETURN_IF_ERROR(trainer->Settle());
  const double start_seconds = ProcessSeconds() - ceiling_seconds;
  while (step < kWarmUps) RETURN_IF_ERROR(trainer->Step(++step));
  // Facts may come a step late; the one after the timed steps brings those of the last.
  std::vector<StepMetrics> timed;
  const std::unique_ptr<kernels::Gauges> gauges = kernels::Gauges::Open(device);
  std::vector<kernels::GaugeReading> readings;
  while (timed.size() < static_cast<size_t>(steps)) {
    RETURN_IF_ERROR(trainer->Step(++step));
    if (gauges != nullptr) readings.push_back(gauges->Read());
    if (trainer->last_step().step > kWarmUps) timed.push_back(trainer->last_step());
  }
  RETURN_IF_ERROR(trainer->Settle());
  std::sort(timed.begin(), timed.end(), [](const StepMetrics& a, const StepMetrics& b) {
    return a.step_seconds < b.step_seconds;
  });
  const runtime::TrainingState& state = trainer->state();
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Trace> trace,
      Trace::Start({{state.compute(), "compute"}, {state.comm(), "comm"}}, kMaxIntervals));
  RETURN_IF_ERROR(trainer->Step(++step));
  RETURN_IF_ERROR(trainer->Settle());
  ASSIGN_OR_RETURN(const std::vector<Trace::Interval> intervals, trace->Stop());
  BenchTable table;
  AddFacts(job, *trainer, ceilings, timed, table);
  table.facts.emplace_back(
      "start",
      absl::StrFormat("%.2f s from the process' start to the end of its first step, without "
                      "the ceilings' measurement",
                      start_seconds));
  const std::string clock = GaugeText(MedianOf(readings));
  if (!clock.empty()) table.facts.emplace_back("clock", clock + ", median of the timed steps");
  table.rows = SumByOperator(intervals, trace->rows(), ceilings);
  table.facts.emplace_back("traced",
                           absl::StrFormat("%.2f ms: one step with events around every operator%s",
                                           trainer->last_step().step_seconds * 1e3,
                                           trace->dropped() > 0 ? "; not all had room" : ""));
  return table;
}

}  // namespace muster::launch
