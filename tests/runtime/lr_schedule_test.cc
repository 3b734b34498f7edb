#include "runtime/train/lr_schedule.h"

#include <gtest/gtest.h>

namespace muster::runtime {
namespace {

Optimizer MakeOptimizer(RateDecay decay, int64_t warmup, int64_t decay_steps = 0) {
  Optimizer optimizer;
  optimizer.set_learning_rate(1e-3);
  optimizer.set_min_learning_rate_ratio(0.1);
  optimizer.set_warmup_steps(warmup);
  optimizer.set_decay_steps(decay_steps);
  optimizer.set_decay(decay);
  return optimizer;
}

TEST(LrSchedule, WarmUpIsLinearAndReachesThePeakAtItsLastUpdate) {
  for (const RateDecay decay : {COSINE, LINEAR, CONSTANT}) {
    const Optimizer optimizer = MakeOptimizer(decay, 10);
    EXPECT_DOUBLE_EQ(LearningRate(optimizer, 100, 1), 1e-4);
    EXPECT_DOUBLE_EQ(LearningRate(optimizer, 100, 5), 5e-4);
    EXPECT_DOUBLE_EQ(LearningRate(optimizer, 100, 10), 1e-3);
  }
}

TEST(LrSchedule, CosineHasTheMeanHalfwayAndTheFloorAtTheEnd) {
  const Optimizer optimizer = MakeOptimizer(COSINE, 20);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 120, 70), 5.5e-4);
  // A quarter of the way: floor + 0.9e-3 (1 + cos(pi / 4)) / 2.
  EXPECT_NEAR(LearningRate(optimizer, 120, 45), 1e-4 + 0.9e-3 * 0.8535533905932737, 1e-15);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 120, 120), 1e-4);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 120, 500), 1e-4);
}

TEST(LrSchedule, LinearFallsByEqualAmounts) {
  const Optimizer optimizer = MakeOptimizer(LINEAR, 0);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 10, 1), 1e-3 - 0.9e-4);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 10, 5), 5.5e-4);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 10, 10), 1e-4);
}

TEST(LrSchedule, ConstantStaysAtThePeak) {
  const Optimizer optimizer = MakeOptimizer(CONSTANT, 3);
  EXPECT_EQ(LearningRate(optimizer, 10, 4), 1e-3);
  EXPECT_EQ(LearningRate(optimizer, 10, 1000), 1e-3);
}

TEST(LrSchedule, DecayStepsOverrideTheLengthOfTheRun) {
  const Optimizer optimizer = MakeOptimizer(LINEAR, 0, 50);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 1000, 25), 5.5e-4);
  EXPECT_DOUBLE_EQ(LearningRate(optimizer, 1000, 50), 1e-4);
}

TEST(LrSchedule, NeverRisesAfterWarmUp) {
  for (const RateDecay decay : {COSINE, LINEAR, CONSTANT}) {
    for (const int64_t warmup : {0, 1, 7, 100, 200}) {
      const Optimizer optimizer = MakeOptimizer(decay, warmup);
      for (int64_t update = warmup + 1; update < 150; ++update) {
        EXPECT_LE(LearningRate(optimizer, 100, update + 1), LearningRate(optimizer, 100, update));
        EXPECT_GE(LearningRate(optimizer, 100, update), 1e-4);
      }
    }
  }
}

}  // namespace
}  // namespace muster::runtime
