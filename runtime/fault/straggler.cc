#include "runtime/fault/straggler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace muster::runtime {
namespace {

constexpr size_t kStepsKept = 160, kStepsToKnow = 8, kMeansToKnow = 6;
constexpr std::array<size_t, 5> kMeansOf = {1, 2, 4, 8, 16};  // steps
constexpr double kTimesPastPeak = 1.5, kPeakKept = 0.998;     // by step
constexpr int64_t kFirstStep = 2;                             // the first of an attempt warms up
// The median of |x - mean| of a normal distribution, in its standard deviations.
constexpr double kMedianDistance = 0.6745;

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// Median of all but one, of sorted values, in constant time.
double MedianWithout(const std::vector<double>& sorted, size_t left_out) {
  const size_t rest = sorted.size() - 1;
  const auto at = [&](size_t i) { return sorted[i < left_out ? i : i + 1]; };
  return rest % 2 == 1 ? at(rest / 2) : (at(rest / 2 - 1) + at(rest / 2)) / 2;
}

// For each value the median of the others.
std::vector<double> MediansOfOthers(const std::vector<double>& values) {
  std::vector<double> sorted = values, medians;
  std::sort(sorted.begin(), sorted.end());
  for (const double value : values) {
    const auto place = std::lower_bound(sorted.begin(), sorted.end(), value);
    medians.push_back(MedianWithout(sorted, static_cast<size_t>(place - sorted.begin())));
  }
  return medians;
}

// The means of `length` steps each, of all but the newest ones.
std::vector<double> MeansOf(size_t length, const std::deque<double>& steps, size_t newest) {
  std::vector<double> means;
  for (size_t end = steps.size() - std::min(newest, steps.size()); end >= length; end -= length) {
    const auto last = steps.begin() + static_cast<std::ptrdiff_t>(end);
    means.push_back(std::accumulate(last - static_cast<std::ptrdiff_t>(length), last, 0.0) /
                    static_cast<double>(length));
  }
  return means;
}

// From the distances of neighbours, which a lasting change enters only once.
double DeviationOfNeighbours(const std::vector<double>& values) {
  std::vector<double> distances;
  for (size_t i = 1; i < values.size(); ++i) {
    distances.push_back(std::abs(values[i] - values[i - 1]));
  }
  return Median(std::move(distances)) / (std::sqrt(2.0) * kMedianDistance);
}

// From the distances to the median: neighbours resemble each other if noise lasts.
double DeviationOfAll(std::vector<double> values) {
  const double median = Median(values);
  for (double& value : values) value = std::abs(value - median);
  return Median(std::move(values)) / kMedianDistance;
}

}  // namespace

std::vector<double> ExcessOverPeers(const std::vector<StepWork>& work) {
  std::vector<double> excess(work.size());
  if (work.size() < 2) return excess;
  std::vector<double> even, per_row;
  for (const StepWork& w : work) {
    const bool has_rows = w.uneven_rows > 0;
    even.push_back(static_cast<double>(w.even_ns));
    per_row.push_back(
        has_rows ? static_cast<double>(w.uneven_ns) / static_cast<double>(w.uneven_rows) : 0);
  }
  const std::vector<double> others_even = MediansOfOthers(even);
  const std::vector<double> others_per_row = MediansOfOthers(per_row);
  for (size_t i = 0; i < work.size(); ++i) {
    const double worked = static_cast<double>(work[i].even_ns + work[i].uneven_ns);
    const double expected =
        others_even[i] + static_cast<double>(work[i].uneven_rows) * others_per_row[i];
    if (worked > 0 && expected > 0) excess[i] = std::log(worked / expected);
  }
  return excess;
}

void ExcessNoise::See(double excess) {
  steps_.push_back(excess);
  if (steps_.size() > kStepsKept) steps_.pop_front();
}

bool ExcessNoise::known() const { return steps_.size() >= kStepsToKnow; }

double ExcessNoise::Deviation(int in_doubt) const {
  double deviation = 0;
  for (const size_t length : kMeansOf) {
    const double of_step = std::sqrt(static_cast<double>(length));  // if steps are independent
    const std::vector<double> all = MeansOf(length, steps_, 0);
    if (all.size() < kMeansToKnow) break;
    deviation = std::max(deviation, of_step * DeviationOfNeighbours(all));
    std::vector<double> before = MeansOf(length, steps_, static_cast<size_t>(in_doubt));
    if (before.size() < kMeansToKnow) continue;
    deviation = std::max(deviation, of_step * DeviationOfAll(std::move(before)));
  }
  return deviation;
}

StragglerFinder::StragglerFinder(StragglerOptions options, int world_size)
    : options_(std::move(options)), ranks_(static_cast<size_t>(world_size)) {
  std::map<int, size_t> index;
  for (int rank = 0; rank < world_size; ++rank) {
    const int stage = options_.stage.empty() ? 0 : options_.stage[static_cast<size_t>(rank)];
    const auto [at, is_new] = index.emplace(stage, stages_.size());
    if (is_new) stages_.emplace_back();
    stages_[at->second].push_back(rank);
    stage_of_.push_back(at->second);
  }
  for (Rank& rank : ranks_) rank.first = kFirstStep;
}

void StragglerFinder::See(int rank, int64_t steps_done,
                          const std::array<StepWork, kStepsRemembered>& work) {
  Rank& r = ranks_[static_cast<size_t>(rank)];
  int64_t next = r.first + static_cast<int64_t>(r.work.size());
  const int64_t oldest = steps_done - static_cast<int64_t>(kStepsRemembered) + 1;
  if (oldest > next) {  // too many steps between two frames: what waited has a gap behind it
    r.work.clear();
    r.first = next = oldest;
  }
  for (; next <= steps_done; ++next) {
    r.work.push_back(work[static_cast<size_t>(next) % kStepsRemembered]);
  }
  JudgeReady(stages_[stage_of_[static_cast<size_t>(rank)]]);
}

// Judges all steps that all peers have told.
void StragglerFinder::JudgeReady(const std::vector<int>& peers) {
  int64_t begin = 0, end = INT64_MAX;
  for (const int rank : peers) {
    const Rank& r = ranks_[static_cast<size_t>(rank)];
    begin = std::max(begin, r.first);
    end = std::min(end, r.first + static_cast<int64_t>(r.work.size()));
  }
  for (; begin < end; ++begin) {
    for (const int rank : peers) {
      Rank& r = ranks_[static_cast<size_t>(rank)];
      for (; r.first < begin; ++r.first) r.work.pop_front();
    }
    JudgeStep(peers);
  }
}

// The step in front of all peers' queues, which it takes out.
void StragglerFinder::JudgeStep(const std::vector<int>& peers) {
  std::vector<StepWork> work;
  for (const int rank : peers) {
    Rank& r = ranks_[static_cast<size_t>(rank)];
    work.push_back(r.work.front());
    r.work.pop_front();
    ++r.first;
  }
  if (peers.size() < 2) return;
  past_peak_ *= std::pow(kPeakKept, 1 / static_cast<double>(stages_.size()));
  const std::vector<double> excess = ExcessOverPeers(work);
  for (size_t i = 0; i < peers.size(); ++i) Add(peers[i], excess[i]);
  for (const int rank : peers) Judge(rank, peers);
}

void StragglerFinder::Add(int rank, double excess) {
  Rank& r = ranks_[static_cast<size_t>(rank)];
  r.noise.See(excess);
  if (r.told) return;
  r.sum += std::clamp(excess - options_.reference, -options_.clip, options_.clip);
  r.excess_sum += excess;
  ++r.num_steps;
  if (r.sum <= 0) {
    r.sum = r.excess_sum = 0;
    r.num_steps = 0;
  }
  r.peak = std::max(r.peak, r.sum);
  if (r.sum > r.peak / 2) return;
  past_peak_ = std::max(past_peak_, r.peak);
  r.peak = r.sum;
}

void StragglerFinder::Judge(int rank, const std::vector<int>& peers) {
  Rank& r = ranks_[static_cast<size_t>(rank)];
  const double least = std::max(options_.least_threshold, kTimesPastPeak * past_peak_);
  if (r.told || !r.noise.known() || r.sum <= least) return;
  const auto may_be_noise = [&](double noise) {
    return r.sum <= options_.false_alarm_log * noise * noise / (2 * options_.reference);
  };
  if (may_be_noise(r.noise.Deviation(r.num_steps))) return;
  std::vector<double> of_peers;
  for (const int peer : peers) {
    of_peers.push_back(ranks_[static_cast<size_t>(peer)].noise.Deviation(r.num_steps));
  }
  if (may_be_noise(Median(std::move(of_peers)))) return;
  r.told = true;
  past_peak_ = std::max(past_peak_, r.sum);
  found_.push_back({rank, std::expm1(r.excess_sum / r.num_steps)});
}

std::optional<SlowRank> StragglerFinder::Next() {
  if (found_.empty()) return std::nullopt;
  const SlowRank next = found_.front();
  found_.pop_front();
  return next;
}

}  // namespace muster::runtime
