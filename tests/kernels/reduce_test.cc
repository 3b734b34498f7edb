#include "kernels/ops/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/range_tables.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

// Of x in ranges.
void AddSquares(const TensorView& x, const std::vector<int64_t>& ends, const TensorView& out) {
  const auto stream = Stream::Create({}, StreamMode::kInline, "test");
  MUSTER_CHECK_OK(stream.status());
  const OwnedTable<SquaresRange> owned(SquaresRanges(x, ends), stream->view());
  cpu::SumOfSquares({.table = owned.table, .dtype = x.dtype, .out = out});
}

class Reduce : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, Reduce, StorageDTypes(), DTypeName);

TEST_P(Reduce, SumsMatchReferenceAndAccumulate) {
  const Tensor x = RandomTensor(GetParam(), {7, 143}, "x");
  double sum = 3, squares = 3;
  for (double value : Values(x.view())) {
    sum += value;
    squares += value * value;
  }
  const Tensor out = TensorOf(DType::kFloat64, {1}, {3});
  AddSquares(x.view(), {0, 700, 701, 7 * 143}, out.view());
  EXPECT_TRUE(IsClose(out.view(), {squares}));
  SetValue(out.view(), 0, 3);
  cpu::Sum({.x = x.view(), .out = out.view()});
  EXPECT_TRUE(IsClose(out.view(), {sum}));
  cpu::Sum({.x = x.view(), .out = out.view(), .scale = -0.5});
  EXPECT_TRUE(IsClose(out.view(), {sum - (sum - 3) / 2}));
}

TEST_P(Reduce, ColumnSumMatchesReferenceAndAccumulates) {
  const Tensor x = RandomTensor(GetParam(), {9, 21}, "x");
  const Tensor out = RandomTensor(AccumulatorDType(GetParam()), {21}, "out");
  std::vector<double> expected = Values(out.view());
  for (size_t i = 0; i < 9 * 21; ++i) {
    expected[i % 21] += GetValue(x.view(), static_cast<int64_t>(i));
  }
  cpu::ColumnSum({.x = x.view(), .out = out.view()});
  EXPECT_TRUE(IsClose(out.view(), expected));
}

TEST_P(Reduce, AddMatchesReferenceAndMayAlias) {
  for (int aliased = 0; aliased < 3; ++aliased) {
    const Tensor a = RandomTensor(GetParam(), {5, 13}, "a");
    const Tensor b = RandomTensor(GetParam(), {5, 13}, "b");
    const Tensor other = MakeTensor(GetParam(), {5, 13});
    std::vector<double> expected = Values(a.view());
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += GetValue(b.view(), static_cast<int64_t>(i));
    }
    const TensorView out = aliased == 0 ? other.view() : aliased == 1 ? a.view() : b.view();
    cpu::Add({.a = a.view(), .b = b.view(), .out = out});
    EXPECT_TRUE(IsClose(out, expected)) << "aliased " << aliased;
  }
}

TEST_P(Reduce, SumSlicesMatchesReferenceAndMayAliasTheFirst) {
  const int64_t size = 2500;  // more than one block of the sum
  const Tensor inputs = RandomTensor(GetParam(), {4, size}, "inputs");
  std::vector<double> expected(static_cast<size_t>(size));
  for (int64_t i = 0; i < 4 * size; ++i) {
    expected[static_cast<size_t>(i % size)] += GetValue(inputs.view(), i);
  }
  const Tensor out = MakeTensor(GetParam(), {size});
  cpu::SumSlices({.inputs = inputs.view(), .out = out.view()});
  EXPECT_TRUE(IsClose(out.view(), expected));
  const std::vector<double> apart = Values(out.view());
  const TensorView first = inputs.view().Slice(0, 0, 1).Reshape({size});
  cpu::SumSlices({.inputs = inputs.view(), .out = first});
  EXPECT_EQ(Values(first), apart);
}

TEST(SumSlices, RoundsBf16OnlyOnce) {
  // 256 + 1 is not a bf16: a sum that rounded after each slice would stay at 256.
  const Tensor inputs = TensorOf(DType::kBFloat16, {5, 1}, {256, 1, 1, 1, 1});
  const Tensor out = MakeTensor(DType::kBFloat16, {1});
  cpu::SumSlices({.inputs = inputs.view(), .out = out.view()});
  EXPECT_EQ(GetValue(out.view(), 0), 260);
}

TEST(SumOfSquares, OfFp32RunsInFp64) {
  const Tensor x = TensorOf(DType::kFloat32, {2}, {1e30, 1e30});  // squares overflow fp32
  const Tensor out = MakeTensor(DType::kFloat64, {1});
  AddSquares(x.view(), {0, 2}, out.view());
  EXPECT_NEAR(GetValue(out.view(), 0), 2e60, 1e54);
}

struct Clipped {
  double norm, scale;
};
Clipped Clip(DType dtype, double sum_of_squares, double max_norm) {
  const Tensor sum = TensorOf(DType::kFloat64, {1}, {sum_of_squares});
  const Tensor norm = MakeTensor(DType::kFloat64, {1});
  const Tensor scale = MakeTensor(dtype, {1});
  cpu::ClipCoefficient({.sum_of_squares = sum.view(),
                        .norm = norm.view(),
                        .scale = scale.view(),
                        .max_norm = max_norm});
  return {GetValue(norm.view(), 0), GetValue(scale.view(), 0)};
}

class ClipCoefficient : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, ClipCoefficient, AccumulatorDTypes(), DTypeName);

TEST_P(ClipCoefficient, BringsALargeNormToTheBound) {
  const Clipped clipped = Clip(GetParam(), 16.0, 1.0);
  EXPECT_EQ(clipped.norm, 4.0);
  EXPECT_NEAR(clipped.scale, 0.25, 1e-6);
  EXPECT_LT(clipped.scale, 0.25);
}

TEST_P(ClipCoefficient, LeavesASmallNormAlone) {
  EXPECT_EQ(Clip(GetParam(), 16.0, 4.0).scale, 1.0);
  EXPECT_EQ(Clip(GetParam(), 16.0, 5.0).scale, 1.0);
  EXPECT_EQ(Clip(GetParam(), 16.0, 0.0).scale, 1.0);  // 0 is no bound
}

TEST_P(ClipCoefficient, IsZeroIfTheSumIsNotFinite) {
  for (double sum :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    for (double max_norm : {0.0, 1.0}) EXPECT_EQ(Clip(GetParam(), sum, max_norm).scale, 0.0);
  }
}

}  // namespace
}  // namespace muster::kernels
