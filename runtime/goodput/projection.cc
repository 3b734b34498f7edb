#include "runtime/goodput/projection.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/number_text.h"

namespace muster::runtime {
namespace {

constexpr double kSecondsPerDay = 86'400, kGpusPerNode = 8;
constexpr double kShortestInterval = 1e-3;  // seconds; where a save costs nothing, none is best

}  // namespace

double ProjectedGoodput(const FailureModel& model, double tau_seconds) {
  const double m = model.mttf_seconds;
  MUSTER_CHECK(m > 0 && tau_seconds > 0) << "M " << m << ", tau " << tau_seconds;
  return tau_seconds * std::exp(-(model.commit_seconds + model.restart_seconds) / m) /
         (m * std::expm1((tau_seconds + model.stall_seconds) / m));
}

// tau / (e^((tau + w) / M) - 1) has one maximum: where it stops to rise, by golden section.
BestInterval BestCheckpointInterval(const FailureModel& model) {
  const double least = std::max(model.commit_seconds, kShortestInterval);
  // The optimum lies near sqrt(2 w M) and below M + w.
  double low = least, high = std::max(least, 4 * (model.mttf_seconds + model.stall_seconds));
  const double ratio = (std::sqrt(5.0) - 1) / 2;
  while (high - low > 1e-6 * high) {
    const double a = high - ratio * (high - low), b = low + ratio * (high - low);
    if (ProjectedGoodput(model, a) >= ProjectedGoodput(model, b)) {
      high = b;
    } else {
      low = a;
    }
  }
  const double inner = (low + high) / 2;
  const double tau =
      ProjectedGoodput(model, least) >= ProjectedGoodput(model, inner) ? least : inner;
  return {tau, ProjectedGoodput(model, tau)};
}

double MttfSeconds(double gpus, double failures_per_node_day) {
  return kSecondsPerDay * kGpusPerNode / (gpus * failures_per_node_day);
}

std::vector<ProjectionRow> Projections(const FailureModel& model) {
  std::vector<ProjectionRow> rows;
  for (const int64_t gpus : {1'024, 4'096, 16'384, 100'000}) {
    for (const FailureRate& rate : kFailureRates) {
      FailureModel at_scale = model;
      at_scale.mttf_seconds = MttfSeconds(static_cast<double>(gpus), rate.per_node_day);
      rows.push_back({gpus, rate, at_scale.mttf_seconds, BestCheckpointInterval(at_scale)});
    }
  }
  return rows;
}

std::string ProjectionText(const FailureModel& model) {
  std::string text =
      absl::StrCat("Projection: kept, if a restart takes ", DurationText(model.restart_seconds),
                   ", a save stalls ", DurationText(model.stall_seconds), " and counts ",
                   DurationText(model.commit_seconds), " later\n", PadLeft("GPUs", 11), "  ",
                   PadRight("failures a node and day", 25), PadLeft("MTTF", 14),
                   PadLeft("save every", 14), PadLeft("kept", 10), "\n");
  for (const auto& [gpus, rate, mttf_seconds, best] : Projections(model)) {
    absl::StrAppend(
        &text, PadLeft(WithThousands(gpus), 11), "  ",
        PadRight(absl::StrCat(Scientific(rate.per_node_day, 2), " (", rate.cluster, ")"), 25),
        PadLeft(DurationText(mttf_seconds), 14), PadLeft(DurationText(best.tau_seconds), 14),
        PadLeft(Fixed(best.goodput, 3), 10), "\n");
  }
  return text;
}

}  // namespace muster::runtime
