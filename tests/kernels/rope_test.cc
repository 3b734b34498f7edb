#include "kernels/ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kPositions = 50, kHeads = 3, kSize = 10;
constexpr double kTheta = 500.0;

Tensor Table(DType storage) {
  Tensor table = MakeTensor(AccumulatorDType(storage), {kPositions, kSize / 2, 2});
  cpu::RopeTable({.table = table.view(), .theta = kTheta});
  return table;
}

class RopeOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, RopeOf, StorageDTypes(), DTypeName);

TEST_P(RopeOf, RotatesPairsByPositionTimesFrequency) {
  const Tensor table = Table(GetParam());
  const Tensor x = RandomTensor(GetParam(), {4, kHeads, kSize}, "x");
  const std::vector<double> before = Values(x.view()), positions = {0, 7, 49, 7};
  const Tensor index = TensorOf(DType::kInt32, {4}, positions);
  cpu::Rope({.x = x.view(), .positions = index.view(), .table = table.view()});
  std::vector<double> expected(before.size());
  for (size_t head = 0; head < 4 * kHeads; ++head) {
    for (size_t c = 0; c < kSize / 2; ++c) {
      const double angle = positions[head / kHeads] * std::pow(kTheta, -2.0 * double(c) / kSize);
      const size_t i = head * kSize + c, j = i + kSize / 2;
      expected[i] = before[i] * std::cos(angle) - before[j] * std::sin(angle);
      expected[j] = before[j] * std::cos(angle) + before[i] * std::sin(angle);
    }
  }
  EXPECT_TRUE(IsClose(x.view(), expected));
}

TEST_P(RopeOf, BackwardUndoesForward) {
  const Tensor table = Table(GetParam());
  const Tensor x = RandomTensor(GetParam(), {4, kHeads, kSize}, "x");
  const std::vector<double> before = Values(x.view());
  const Tensor positions = TensorOf(DType::kInt32, {4}, {1, 2, 48, 49});
  RopeArgs args{.x = x.view(), .positions = positions.view(), .table = table.view()};
  cpu::Rope(args);
  EXPECT_FALSE(IsClose(x.view(), before));
  args.backward = true;
  cpu::Rope(args);
  EXPECT_TRUE(IsClose(x.view(), before));
}

TEST_P(RopeOf, LeavesTheRestOfAPackedTokenAlone) {
  const Tensor table = Table(GetParam());
  const Tensor positions = TensorOf(DType::kInt32, {4}, {1, 2, 48, 49});
  const Tensor packed = RandomTensor(GetParam(), {4, kHeads + 4, kSize}, "packed");
  const std::vector<double> before = Values(packed.view());
  const TensorView slice = packed.view().Slice(1, 2, 2 + kHeads);
  const Tensor apart = MakeTensor(GetParam(), {4, kHeads, kSize});
  SetValues(apart.view(), Values(slice));
  cpu::Rope({.x = slice, .positions = positions.view(), .table = table.view()});
  cpu::Rope({.x = apart.view(), .positions = positions.view(), .table = table.view()});
  EXPECT_EQ(Values(slice), Values(apart.view()));
  for (int64_t i = 0; i < packed.view().num_elements(); ++i) {
    const int64_t head = i / kSize % (kHeads + 4);
    if (head >= 2 && head < 2 + kHeads) continue;
    EXPECT_EQ(GetValue(packed.view(), i), before[static_cast<size_t>(i)]);
  }
}

TEST(Rope, GradientMatchesFiniteDifferences) {
  const Tensor table = Table(DType::kFloat64);
  const Tensor x = RandomTensor(DType::kFloat64, {2, 1, kSize}, "x");
  const Tensor rotated = MakeTensor(DType::kFloat64, {2, 1, kSize});
  const Tensor d_out = RandomTensor(DType::kFloat64, {2, 1, kSize}, "d_out");
  const Tensor gradient = MakeTensor(DType::kFloat64, {2, 1, kSize});
  const Tensor positions = TensorOf(DType::kInt32, {2}, {3, 31});
  SetValues(gradient.view(), Values(d_out.view()));
  cpu::Rope({.x = gradient.view(),
             .positions = positions.view(),
             .table = table.view(),
             .backward = true});
  const auto loss = [&] {
    SetValues(rotated.view(), Values(x.view()));
    cpu::Rope({.x = rotated.view(), .positions = positions.view(), .table = table.view()});
    return Dot(rotated.view(), d_out.view());
  };
  EXPECT_TRUE(GradientMatches(loss, x.view(), gradient.view()));
}

TEST(Rope, ScoresDependOnTheDistanceOnly) {
  const Tensor table = Table(DType::kFloat64);
  const auto score = [&](double q_position, double k_position) {
    const Tensor q = RandomTensor(DType::kFloat64, {1, 1, kSize}, "q");
    const Tensor k = RandomTensor(DType::kFloat64, {1, 1, kSize}, "k");
    const Tensor at_q = TensorOf(DType::kInt32, {1}, {q_position});
    const Tensor at_k = TensorOf(DType::kInt32, {1}, {k_position});
    cpu::Rope({.x = q.view(), .positions = at_q.view(), .table = table.view()});
    cpu::Rope({.x = k.view(), .positions = at_k.view(), .table = table.view()});
    return Dot(q.view(), k.view());
  };
  EXPECT_NEAR(score(5, 2), score(40, 37), 1e-12);
  EXPECT_GT(std::fabs(score(5, 2) - score(5, 3)), 1e-3);
}

TEST(RopeDeathTest, NamesThePositionOutsideTheTable) {
  const Tensor table = Table(DType::kFloat32);
  const Tensor x = MakeTensor(DType::kFloat32, {1, 1, kSize});
  const Tensor positions = TensorOf(DType::kInt32, {1}, {kPositions});
  EXPECT_DEATH(cpu::Rope({.x = x.view(), .positions = positions.view(), .table = table.view()}),
               "position 50 of token 0 is outside the table");
}

}  // namespace
}  // namespace muster::kernels
