// Ranks find out how far their clocks are apart. Here they all read one, so they are not.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "runtime/train/clock_exchange.h"
#include "tests/support/mpi_main.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

TEST(ClockExchange, OfOneKernelIsExact) {
  const auto clock = ExchangeClocks(KernelOf(TestWorld()), TestWorld());
  ASSERT_TRUE(clock.ok()) << clock.status();
  EXPECT_EQ(clock->offset_ns, 0);
  EXPECT_EQ(clock->uncertainty_ns, 0);
}

TEST(ClockExchange, OfSeveralBoundsTheOffsetThatIsThere) {
  const int rank = TestWorld().rank();
  const auto clock = ExchangeClocks("kernel " + std::to_string(rank % 2), TestWorld());
  ASSERT_TRUE(clock.ok()) << clock.status();
  EXPECT_LE(std::abs(clock->offset_ns), clock->uncertainty_ns);
  EXPECT_LT(clock->uncertainty_ns, 5'000'000'000) << "rounds that take seconds bound nothing";
  EXPECT_EQ(clock->uncertainty_ns == 0, rank % 2 == 0);  // rank 0's own is exact
}

}  // namespace
}  // namespace muster::runtime
