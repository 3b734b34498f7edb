#include "kernels/device/gauges.h"

#include <gtest/gtest.h>

#include "tests/support/kernels/on_cuda.h"

namespace muster::kernels {
namespace {

TEST(Gauges, TheCpuHasNone) { EXPECT_EQ(Gauges::Open(Device{}), nullptr); }

class CudaGauges : public OnCuda {};

TEST_F(CudaGauges, SayWhatAGpuCanBe) {
  const auto gauges = Gauges::Open(kCuda0);
  ASSERT_NE(gauges, nullptr) << "the driver came without libnvidia-ml.so.1";
  const GaugeReading reading = gauges->Read();
  EXPECT_GE(reading.sm_clock_mhz, 100);
  EXPECT_LE(reading.sm_clock_mhz, 4000);
  EXPECT_GE(reading.power_watts, 10);
  EXPECT_LE(reading.power_watts, 2000);
}

}  // namespace
}  // namespace muster::kernels
