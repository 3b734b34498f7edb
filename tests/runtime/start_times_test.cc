#include "runtime/train/start_times.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "kernels/device/span.h"

namespace muster::runtime {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(StartTimes, PartsTileTheTimeFromStartToEnd) {
  StartTimes times(1000 * kMs);
  times.Enter("runtime", 1300 * kMs);
  times.Enter("memory", 2500 * kMs);
  times.Enter("runtime", 2900 * kMs);
  times.Enter("step", 3600 * kMs);
  EXPECT_EQ(times.Line(5900 * kMs),
            "start: 4.9 s = loading 0.3 + runtime 1.9 + memory 0.4 + step 2.3");
}

TEST(StartTimes, WhatCannotBeSeenIsAddedUp) {
  StartTimes times(0);
  times.Enter("a", 20 * kMs);
  times.Enter("b", 60 * kMs);
  times.Enter("step", 100 * kMs);
  EXPECT_EQ(times.Line(1100 * kMs), "start: 1.1 s = step 1.0 + rest 0.1");
}

// Facts of a step are read late: by then the host may be in what comes next.
TEST(StartTimes, WhatComesAfterTheEndDoesNotCount) {
  StartTimes times(0);
  times.Enter("step", 1000 * kMs);
  times.Enter("later", 3000 * kMs);
  EXPECT_EQ(times.Line(2000 * kMs), "start: 2.0 s = loading 1.0 + step 1.0");
}

TEST(StartTimes, AProcessStartedBeforeItsFirstQuestion) {
  const int64_t first = ProcessStartNs();
  EXPECT_LE(first, kernels::MonotonicNs());
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_NEAR(static_cast<double>(ProcessStartNs()), static_cast<double>(first), 1e8)
      << "the start does not move";
}

}  // namespace
}  // namespace muster::runtime
