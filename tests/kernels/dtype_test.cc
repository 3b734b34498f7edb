#include "kernels/base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace muster::kernels {
namespace {

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(BFloat16, EveryValueSurvivesTheWayThroughFp32) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    BFloat16 value;
    value.bits = static_cast<uint16_t>(bits);
    const BFloat16 back(static_cast<float>(value));
    if (std::isnan(static_cast<float>(value))) {
      EXPECT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      EXPECT_EQ(back.bits, bits);
    }
  }
}

TEST(BFloat16, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t high : {0x0000u, 0x0001u, 0x3f80u, 0x3f81u, 0xbf80u, 0xbf81u, 0x7f7eu, 0x8001u}) {
    const auto rounded = [&](uint32_t low) { return BFloat16(FromBits((high << 16) | low)).bits; };
    EXPECT_EQ(rounded(0x0000), high);
    EXPECT_EQ(rounded(0x7fff), high);
    EXPECT_EQ(rounded(0x8000), high + (high & 1));
    EXPECT_EQ(rounded(0x8001), high + 1);
    EXPECT_EQ(rounded(0xffff), high + 1);
  }
}

TEST(BFloat16, OverflowsToInfinityAndKeepsNan) {
  EXPECT_EQ(static_cast<float>(BFloat16(std::numeric_limits<float>::max())),
            std::numeric_limits<float>::infinity());
  EXPECT_EQ(static_cast<float>(BFloat16(-std::numeric_limits<float>::infinity())),
            -std::numeric_limits<float>::infinity());
  // The payload is in the half that is cut off: rounding alone would give infinity.
  for (uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(FromBits(bits))))) << bits;
  }
}

TEST(DType, SizeIsThatOfTheElementType) {
  EXPECT_EQ(SizeOf(DTypeOf<float>::value), 4);
  EXPECT_EQ(SizeOf(DTypeOf<BFloat16>::value), static_cast<int64_t>(sizeof(BFloat16)));
  EXPECT_EQ(SizeOf(DTypeOf<double>::value), 8);
  EXPECT_EQ(SizeOf(DTypeOf<int32_t>::value), 4);
  EXPECT_EQ(SizeOf(DTypeOf<int64_t>::value), 8);
  EXPECT_EQ(SizeOf(DTypeOf<uint8_t>::value), 1);
}

TEST(DType, OnlyFp64AccumulatesInFp64) {
  EXPECT_EQ(AccumulatorDType(DType::kFloat64), DType::kFloat64);
  EXPECT_EQ(AccumulatorDType(DType::kFloat32), DType::kFloat32);
  EXPECT_EQ(AccumulatorDType(DType::kBFloat16), DType::kFloat32);
  EXPECT_EQ(DTypeOf<Accumulator<BFloat16>>::value, DType::kFloat32);
  EXPECT_EQ(DTypeOf<Accumulator<double>>::value, DType::kFloat64);
  EXPECT_EQ(std::string(Name(DType::kBFloat16)), "bf16");
}

}  // namespace
}  // namespace muster::kernels
