#include "kernels/ops/cast.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

std::vector<double> CastOf(DType from, DType to, const std::vector<double>& values) {
  const auto size = static_cast<int64_t>(values.size());
  const Tensor x = TensorOf(from, {size}, values), out = MakeTensor(to, {size});
  cpu::Cast({.x = x.view(), .out = out.view()});
  return Values(out.view());
}

TEST(Cast, WideningIsExactAndBack) {
  const Tensor random = RandomTensor(DType::kBFloat16, {100}, "x");
  const std::vector<double> values = Values(random.view());
  for (DType wide : {DType::kFloat32, DType::kFloat64}) {
    EXPECT_EQ(CastOf(DType::kBFloat16, wide, values), values);
    EXPECT_EQ(CastOf(wide, DType::kBFloat16, values), values);
  }
  EXPECT_EQ(CastOf(DType::kBFloat16, DType::kBFloat16, values), values);
}

TEST(Cast, RoundsToNearestEven) {
  const double ulp = 1.0 / 128;  // of bf16 at 1
  const std::vector<double> values = {1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -1 - ulp / 2};
  const std::vector<double> rounded = {1, 1 + 2 * ulp, 1 + ulp, -1};
  EXPECT_EQ(CastOf(DType::kFloat32, DType::kBFloat16, values), rounded);
  EXPECT_EQ(CastOf(DType::kFloat64, DType::kBFloat16, values), rounded);
  EXPECT_EQ(CastOf(DType::kFloat64, DType::kFloat32, {1 + std::ldexp(1.0, -24)}),
            std::vector<double>{1});
}

TEST(Cast, Fp64ToBf16RoundsOnce) {
  // Just above the middle between 1 and 1 + ulp, by less than fp32 can tell: rounding to fp32
  // first would fall on the middle, and then to 1.
  const double above = 1 + 1.0 / 256 + std::ldexp(1.0, -40);
  const double below = 1 + 3.0 / 256 - std::ldexp(1.0, -40);
  EXPECT_EQ(CastOf(DType::kFloat64, DType::kBFloat16, {above, below, -above}),
            (std::vector<double>{1 + 1.0 / 128, 1 + 1.0 / 128, -1 - 1.0 / 128}));
}

TEST(Cast, KeepsInfinitiesAndNan) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (DType from : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    for (DType to : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
      const std::vector<double> out = CastOf(from, to, {infinity, -infinity, std::nan("")});
      EXPECT_EQ(out[0], infinity);
      EXPECT_EQ(out[1], -infinity);
      EXPECT_TRUE(std::isnan(out[2]));
    }
  }
  EXPECT_EQ(CastOf(DType::kFloat64, DType::kBFloat16, {1e300})[0], infinity);
}

class FillTo : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, FillTo, StorageDTypes(), DTypeName);

TEST_P(FillTo, SetsEveryElement) {
  const Tensor x = RandomTensor(GetParam(), {3, 5}, "x");
  cpu::Fill({.x = x.view(), .value = -1.5});
  EXPECT_EQ(Values(x.view()), std::vector<double>(15, -1.5));
}

TEST_P(FillTo, NormalIsTheScaledPhiloxValueOfTheIndex) {
  const PhiloxKey key = MakePhiloxKey(7, "layers.0.weight");
  const Tensor x = MakeTensor(GetParam(), {4, 6, 5}), expected = MakeTensor(GetParam(), {4, 6, 5});
  cpu::FillNormal(
      {.x = x.view(), .global_shape = {4, 6, 5}, .begin = {0, 0, 0}, .key = key, .std = 0.3f});
  for (int64_t i = 0; i < 120; ++i) {
    SetValue(expected.view(), i, NormalFromBlock(Philox(key, static_cast<uint64_t>(i))) * 0.3f);
  }
  EXPECT_EQ(Values(x.view()), Values(expected.view()));
}

TEST_P(FillTo, NormalOfAShardEqualsTheSliceOfTheWhole) {
  const PhiloxKey key = MakePhiloxKey(7, "layers.0.weight");
  const Shape global{4, 6, 5};
  const Tensor whole = MakeTensor(GetParam(), global);
  cpu::FillNormal({.x = whole.view(), .global_shape = global, .begin = {0, 0, 0}, .key = key});
  for (const auto& [begin, size] : {std::pair<Shape, Shape>{{1, 0, 0}, {2, 6, 5}},
                                    {{0, 3, 0}, {4, 3, 5}},
                                    {{0, 0, 2}, {4, 6, 3}},
                                    {{3, 1, 4}, {1, 2, 1}}}) {
    const Tensor shard = MakeTensor(GetParam(), size);
    cpu::FillNormal({.x = shard.view(), .global_shape = global, .begin = begin, .key = key});
    TensorView slice = whole.view();
    for (int dim = 0; dim < 3; ++dim) {
      slice = slice.Slice(dim, begin[dim], begin[dim] + size[dim]);
    }
    EXPECT_EQ(Values(shard.view()), Values(slice)) << begin.ToString() << size.ToString();
  }
}

TEST(FillNormalDeathTest, RefusesAShardOutsideTheWhole) {
  const Tensor x = MakeTensor(DType::kFloat32, {3, 3});
  EXPECT_DEATH(cpu::FillNormal({.x = x.view(), .global_shape = {4, 4}, .begin = {2, 0}}),
               "not within the global tensor \\[4, 4\\]");
}

}  // namespace
}  // namespace muster::kernels
