#include "parallel/comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

namespace muster::parallel {
namespace {

using std::chrono::milliseconds;

class Counter : public Watchdog::Watched {
 public:
  bool Look() override {
    ++looks;
    return busy;
  }
  std::atomic<int> looks{0};
  std::atomic<bool> busy{false};
};

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

TEST(Watchdog, LooksAgainWhileAnythingIsUnderWayAndSleepsOtherwise) {
  Watchdog watchdog(milliseconds(1));
  Counter counter;
  watchdog.Add(&counter);
  counter.busy = true;
  watchdog.Wake();
  ASSERT_TRUE(Eventually([&] { return counter.looks > 5; }));
  counter.busy = false;
  // Asleep once the count stands still; a look under way may still add one.
  ASSERT_TRUE(Eventually([&] {
    const int before = counter.looks;
    std::this_thread::sleep_for(milliseconds(50));
    return counter.looks == before;
  }));
  const int asleep = counter.looks;
  watchdog.Wake();
  EXPECT_TRUE(Eventually([&] { return counter.looks > asleep; }));
  watchdog.Remove(&counter);
}

TEST(Watchdog, DoesNotLookAtWhatWasRemoved) {
  Watchdog watchdog(milliseconds(1));
  Counter stays;
  stays.busy = true;
  watchdog.Add(&stays);
  int looks = 0;
  {
    Counter leaves;
    leaves.busy = true;
    watchdog.Add(&leaves);
    watchdog.Wake();
    ASSERT_TRUE(Eventually([&] { return leaves.looks > 1; }));
    watchdog.Remove(&leaves);
    looks = leaves.looks;
    const int others = stays.looks;
    ASSERT_TRUE(Eventually([&] { return stays.looks > others + 2; }));
    EXPECT_EQ(leaves.looks, looks);
  }
  watchdog.Remove(&stays);
}

// No wake-up may get lost between a look that found nothing and the sleep that follows.
TEST(Watchdog, EveryWakeIsFollowedByALook) {
  Watchdog watchdog(milliseconds(1));
  Counter counter;
  watchdog.Add(&counter);
  for (int round = 0; round < 2000; ++round) {
    const int before = counter.looks;
    watchdog.Wake();
    ASSERT_TRUE(Eventually([&] { return counter.looks > before; })) << round;
  }
  watchdog.Remove(&counter);
}

}  // namespace
}  // namespace muster::parallel
