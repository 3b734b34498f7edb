#include "runtime/goodput/projection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace muster::runtime {
namespace {

// A job played forward in time, second by second of its story: restarts that may fail, work,
// stalls, commits that come late. Knows nothing of the formula.
double Simulated(const FailureModel& model, double tau, int failures, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> next(1 / model.mttf_seconds);
  double elapsed = 0, kept = 0;
  for (int i = 0; i < failures; ++i) {
    const double fails_at = next(random);
    elapsed += fails_at;
    double now = model.restart_seconds, since_kept = 0;
    while (now < fails_at) {
      now += tau + model.stall_seconds;  // work, then the snapshot
      since_kept += tau;
      if (now + model.commit_seconds > fails_at) break;  // not durable in time
      kept += since_kept;
      since_kept = 0;
    }
  }
  return kept / elapsed;
}

FailureModel At100k(double restart, double stall, double commit) {
  return {.mttf_seconds = MttfSeconds(100'000, 6.5e-3),
          .restart_seconds = restart,
          .stall_seconds = stall,
          .commit_seconds = commit};
}

// The rows of the design's table. It names restarts; stalls and delays of the last two are those of
// replicas in memory that take a snapshot of a few gigabytes a device and pass it on meanwhile.
const FailureModel kSynchronous = At100k(600, 60, 0);
const FailureModel kAsynchronous = At100k(180, 2, 60);
const FailureModel kInMemory = At100k(60, 0.3, 20);
const FailureModel kInProcess = At100k(15, 0.25, 10);

TEST(Projection, AgreesWithAMonteCarlo) {
  const FailureModel models[] = {
      kSynchronous, kAsynchronous, kInMemory, kInProcess, {40, 6, 0.05, 0.5}};
  uint64_t seed = 1;
  for (const FailureModel& model : models) {
    const double best = BestCheckpointInterval(model).tau_seconds;
    for (const double tau : {best, 2 * best}) {
      EXPECT_NEAR(ProjectedGoodput(model, tau), Simulated(model, tau, 400'000, seed++), 0.002)
          << "tau " << tau;
    }
  }
}

TEST(Projection, HundredThousandGpusAreAsTheDesignSays) {
  EXPECT_NEAR(MttfSeconds(100'000, 6.5e-3) / 60, 17.7, 0.05);
  EXPECT_NEAR(BestCheckpointInterval(kSynchronous).goodput, 0.40, 0.005);
  EXPECT_NEAR(BestCheckpointInterval(kAsynchronous).goodput, 0.75, 0.005);
  EXPECT_NEAR(BestCheckpointInterval(kInMemory).goodput, 0.905, 0.001);
  EXPECT_NEAR(BestCheckpointInterval(kInProcess).goodput, 0.956, 0.001);
}

TEST(Projection, TheBestIntervalIsBest) {
  for (const FailureModel& model : {At100k(600, 60, 0), At100k(60, 0.5, 10), At100k(60, 1, 300)}) {
    const BestInterval best = BestCheckpointInterval(model);
    EXPECT_GE(best.tau_seconds, model.commit_seconds);
    for (double factor = 0.1; factor < 10; factor *= 1.1) {
      const double tau = best.tau_seconds * factor;
      if (tau < model.commit_seconds) continue;
      EXPECT_LE(ProjectedGoodput(model, tau), best.goodput + 1e-9) << tau;
    }
  }
}

TEST(Projection, WithoutFailuresOnlyStallsAreLost) {
  const FailureModel model{.mttf_seconds = 1e12, .stall_seconds = 1};
  EXPECT_NEAR(ProjectedGoodput(model, 99), 0.99, 1e-6);
}

TEST(Projection, TheTableHasALineForEachSizeAndRate) {
  const std::string text = ProjectionText(At100k(180, 2, 60));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2 + 4 * 3);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    EXPECT_LE(end - begin, 100u);
    begin = end + 1;
  }
}

}  // namespace
}  // namespace muster::runtime
