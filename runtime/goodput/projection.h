#pragma once
// What a run would keep of its time at another scale, where failures come more often. Failures are
// exponential with mean M; a restart takes u0 seconds of which each may fail, too; every tau
// seconds of work a snapshot stalls it for w, and counts P seconds later. Between two failures, k
// intervals are kept if u0 + k (tau + w) + P seconds pass; summing the chance of that over k,
//
//   G = tau e^(-P/M) / (M e^(u0/M) (e^((tau + w)/M) - 1)),   tau >= P
//
// (one save in flight at a time). G is the share of the time that is kept: availability, stalls for
// saves and rework in one; what a step itself wastes is not in it.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

struct FailureModel {
  double mttf_seconds = 0;     // M
  double restart_seconds = 0;  // u0: detection, teardown, start and load
  double stall_seconds = 0;    // w
  double commit_seconds = 0;   // P
};

// G for an interval of tau > 0 seconds.
double ProjectedGoodput(const FailureModel& model, double tau_seconds);

struct BestInterval {
  double tau_seconds = 0, goodput = 0;
};
// The best tau >= P, to a part in a million.
BestInterval BestCheckpointInterval(const FailureModel& model);

// Mean time to failure of a job on `gpus`, in nodes of 8, at so many failures a node and day.
double MttfSeconds(double gpus, double failures_per_node_day);

struct FailureRate {
  const char* cluster;
  double per_node_day;
};
// Published: Kokolis et al. 2024 (RSC-1, RSC-2), Llama 3's report (54 days on 16,384 GPUs).
constexpr FailureRate kFailureRates[] = {
    {"RSC-1", 6.5e-3}, {"Llama 3", 3.79e-3}, {"RSC-2", 2.34e-3}};

struct ProjectionRow {
  int64_t gpus = 0;
  FailureRate rate;
  double mttf_seconds = 0;
  BestInterval best;
};
// Over sizes and rates. Times other than M are the model's.
std::vector<ProjectionRow> Projections(const FailureModel& model);

// The same as a table for people.
std::string ProjectionText(const FailureModel& model);

}  // namespace muster::runtime
