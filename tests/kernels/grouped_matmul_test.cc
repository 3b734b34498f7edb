#include "kernels/ops/grouped_matmul.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/ops/matmul.h"
#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/naive_matmul.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kRows = 24, kN = 9, kK = 13, kExperts = 5;
constexpr double kUntouched = 77;  // exact in every dtype

// The first and a middle expert have no rows; the last two rows belong to none.
const std::vector<double>& Offsets() {
  static const std::vector<double> offsets = {0, 0, 7, 7, 8, 22};
  return offsets;
}

TensorView Expert(const TensorView& w, int64_t e) {
  return TensorView(w.Slice(0, e, e + 1).data, w.dtype, {kN, kK});
}

void FillWith(const TensorView& x, double value) {
  for (int64_t i = 0; i < x.num_elements(); ++i) SetValue(x, i, value);
}

class GroupedMatmul : public ::testing::TestWithParam<DType> {
 protected:
  const Tensor x_ = RandomTensor(GetParam(), {kRows, kK}, "x");
  const Tensor w_ = RandomTensor(GetParam(), {kExperts, kN, kK}, "w");
  const Tensor d_y_ = RandomTensor(GetParam(), {kRows, kN}, "d_y");
  const Tensor offsets_ = TensorOf(DType::kInt64, {kExperts + 1}, Offsets());
};

// `expected` of the rows of each expert, kUntouched elsewhere.
template <typename Product>
std::vector<double> RowsByExpert(int64_t width, Product product) {
  std::vector<double> rows(static_cast<size_t>(kRows * width), kUntouched);
  for (int64_t e = 0; e < kExperts; ++e) {
    const int64_t begin = static_cast<int64_t>(Offsets()[static_cast<size_t>(e)]);
    const int64_t end = static_cast<int64_t>(Offsets()[static_cast<size_t>(e) + 1]);
    const std::vector<double> values = product(e, begin, end);
    std::copy(values.begin(), values.end(), rows.begin() + begin * width);
  }
  return rows;
}

TEST_P(GroupedMatmul, ForwardEqualsOneMatmulPerExpert) {
  const Tensor y = MakeTensor(GetParam(), {kRows, kN});
  FillWith(y.view(), kUntouched);
  cpu::GroupedMatmulForward(
      {.x = x_.view(), .w = w_.view(), .y = y.view(), .offsets = offsets_.view()});
  EXPECT_TRUE(IsClose(y.view(), RowsByExpert(kN, [&](int64_t e, int64_t begin, int64_t end) {
                        return NaiveMatmul(x_.view().Slice(0, begin, end),
                                           Transposed(Expert(w_.view(), e)));
                      })));
  for (int64_t i = 22 * kN; i < kRows * kN; ++i) EXPECT_EQ(GetValue(y.view(), i), kUntouched);
}

TEST_P(GroupedMatmul, InputGradientEqualsOneMatmulPerExpert) {
  const Tensor d_x = MakeTensor(GetParam(), {kRows, kK});
  FillWith(d_x.view(), kUntouched);
  cpu::GroupedMatmulBackwardInput(
      {.d_y = d_y_.view(), .w = w_.view(), .d_x = d_x.view(), .offsets = offsets_.view()});
  EXPECT_TRUE(IsClose(d_x.view(), RowsByExpert(kK, [&](int64_t e, int64_t begin, int64_t end) {
                        return NaiveMatmul(d_y_.view().Slice(0, begin, end), Expert(w_.view(), e));
                      })));
  for (int64_t i = 22 * kK; i < kRows * kK; ++i) EXPECT_EQ(GetValue(d_x.view(), i), kUntouched);
}

TEST_P(GroupedMatmul, WeightGradientAccumulatesInTheAccumulatorDtype) {
  const Tensor d_w = RandomTensor(AccumulatorDType(GetParam()), {kExperts, kN, kK}, "d_w");
  std::vector<double> expected = Values(d_w.view());
  for (int64_t e = 0; e < kExperts; ++e) {
    const int64_t begin = static_cast<int64_t>(Offsets()[static_cast<size_t>(e)]);
    const int64_t end = static_cast<int64_t>(Offsets()[static_cast<size_t>(e) + 1]);
    const std::vector<double> product =
        NaiveMatmul(Transposed(d_y_.view().Slice(0, begin, end)), x_.view().Slice(0, begin, end));
    for (size_t i = 0; i < product.size(); ++i) {
      expected[static_cast<size_t>(e * kN * kK) + i] += product[i];
    }
  }
  cpu::GroupedMatmulBackwardWeight(
      {.d_y = d_y_.view(), .x = x_.view(), .d_w = d_w.view(), .offsets = offsets_.view()});
  EXPECT_TRUE(IsClose(d_w.view(), expected));
}

INSTANTIATE_TEST_SUITE_P(DTypes, GroupedMatmul,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST(GroupedMatmulGradients, MatchFiniteDifferences) {
  const Tensor x = RandomTensor(DType::kFloat64, {6, 3}, "x");
  const Tensor w = RandomTensor(DType::kFloat64, {3, 2, 3}, "w");
  const Tensor d_y = RandomTensor(DType::kFloat64, {6, 2}, "d_y");
  const Tensor offsets = TensorOf(DType::kInt64, {4}, {0, 4, 4, 6});
  const Tensor y = MakeTensor(DType::kFloat64, {6, 2});
  const auto loss = [&] {
    cpu::GroupedMatmulForward(
        {.x = x.view(), .w = w.view(), .y = y.view(), .offsets = offsets.view()});
    double sum = 0;
    for (int64_t i = 0; i < 12; ++i) sum += GetValue(y.view(), i) * GetValue(d_y.view(), i);
    return sum;
  };
  const Tensor d_x = MakeTensor(DType::kFloat64, {6, 3});
  const Tensor d_w = MakeTensor(DType::kFloat64, {3, 2, 3});
  cpu::GroupedMatmulBackwardInput(
      {.d_y = d_y.view(), .w = w.view(), .d_x = d_x.view(), .offsets = offsets.view()});
  cpu::GroupedMatmulBackwardWeight(
      {.d_y = d_y.view(), .x = x.view(), .d_w = d_w.view(), .offsets = offsets.view()});
  EXPECT_TRUE(GradientMatches(loss, x.view(), d_x.view()));
  EXPECT_TRUE(GradientMatches(loss, w.view(), d_w.view()));
}

TEST(GroupedMatmulDeathTest, RejectsOffsetsOutsideTheRows) {
  const Tensor x = MakeTensor(DType::kFloat32, {6, 3}), w = MakeTensor(DType::kFloat32, {2, 2, 3});
  const Tensor y = MakeTensor(DType::kFloat32, {6, 2});
  const Tensor offsets = TensorOf(DType::kInt64, {3}, {0, 4, 7});
  EXPECT_DEATH(cpu::GroupedMatmulForward(
                   {.x = x.view(), .w = w.view(), .y = y.view(), .offsets = offsets.view()}),
               "expert 1 owns rows \\[4, 7\\) of 6");
}

}  // namespace
}  // namespace muster::kernels
