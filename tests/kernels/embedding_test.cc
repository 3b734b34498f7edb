#include "kernels/ops/embedding.h"

#include <gtest/gtest.h>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kVocab = 11, kPositions = 4, kDim = 19, kTokens = 6;
const std::vector<double> kIds = {3, 0, 10, 3, 7, 3}, kAt = {0, 1, 2, 3, 0, 1};

class Embedding : public ::testing::TestWithParam<DType> {
 protected:
  const Tensor tokens_ = TensorOf(DType::kInt32, {kTokens}, kIds);
  const Tensor positions_ = TensorOf(DType::kInt32, {kTokens}, kAt);
  const Tensor table_ = RandomTensor(GetParam(), {kVocab, kDim}, "table");
  const Tensor position_table_ = RandomTensor(GetParam(), {kPositions, kDim}, "positions");
  const Tensor d_out_ = RandomTensor(GetParam(), {kTokens, kDim}, "d_out");
};
INSTANTIATE_TEST_SUITE_P(, Embedding, StorageDTypes(), DTypeName);

TEST_P(Embedding, AddsTokenAndPositionRows) {
  const Tensor out = MakeTensor(GetParam(), {kTokens, kDim});
  for (bool with_positions : {false, true}) {
    std::vector<double> expected;
    for (size_t t = 0; t < kTokens; ++t) {
      for (int64_t d = 0; d < kDim; ++d) {
        double value = GetValue(table_.view(), static_cast<int64_t>(kIds[t]) * kDim + d);
        if (with_positions) {
          value += GetValue(position_table_.view(), static_cast<int64_t>(kAt[t]) * kDim + d);
        }
        expected.push_back(value);
      }
    }
    EmbeddingForwardArgs args{.tokens = tokens_.view(), .table = table_.view(), .out = out.view()};
    if (with_positions) {
      args.position_table = position_table_.view();
      args.positions = positions_.view();
    }
    cpu::EmbeddingForward(args);
    EXPECT_TRUE(IsClose(out.view(), expected));
  }
}

TEST_P(Embedding, VocabularyShardsAddUpToTheWhole) {
  const Tensor whole = MakeTensor(GetParam(), {kTokens, kDim});
  cpu::EmbeddingForward({.tokens = tokens_.view(), .table = table_.view(), .out = whole.view()});
  std::vector<double> sum(kTokens * kDim);
  for (const auto& [begin, end] : {std::pair{0, 4}, {4, 8}, {8, 11}}) {
    const Tensor part = RandomTensor(GetParam(), {kTokens, kDim}, "before");
    cpu::EmbeddingForward({.tokens = tokens_.view(),
                           .table = table_.view().Slice(0, begin, end),
                           .out = part.view(),
                           .vocab_begin = begin});
    for (size_t i = 0; i < sum.size(); ++i) {
      sum[i] += GetValue(part.view(), static_cast<int64_t>(i));
    }
  }
  EXPECT_EQ(sum, Values(whole.view()));
}

TEST_P(Embedding, BackwardAccumulatesPerRow) {
  const DType accumulator = AccumulatorDType(GetParam());
  const Tensor d_table = RandomTensor(accumulator, {kVocab, kDim}, "d_table");
  std::vector<double> expected = Values(d_table.view());
  for (size_t i = 0; i < kTokens * kDim; ++i) {
    expected[static_cast<size_t>(kIds[i / kDim]) * kDim + i % kDim] +=
        GetValue(d_out_.view(), static_cast<int64_t>(i));
  }
  cpu::EmbeddingBackward(
      {.d_out = d_out_.view(), .indices = tokens_.view(), .d_table = d_table.view()});
  EXPECT_TRUE(IsClose(d_table.view(), expected));
}

TEST_P(Embedding, BackwardOfAShardIsTheSliceOfTheWhole) {
  const DType accumulator = AccumulatorDType(GetParam());
  const Tensor whole = MakeTensor(accumulator, {kVocab, kDim});
  const Tensor part = MakeTensor(accumulator, {4, kDim});
  cpu::EmbeddingBackward(
      {.d_out = d_out_.view(), .indices = tokens_.view(), .d_table = whole.view()});
  cpu::EmbeddingBackward({.d_out = d_out_.view(),
                          .indices = tokens_.view(),
                          .d_table = part.view(),
                          .vocab_begin = 3});
  EXPECT_EQ(Values(part.view()), Values(whole.view().Slice(0, 3, 7)));
}

TEST(EmbeddingBackward, SumsInTokenOrder) {
  // In fp32 (1e8 + 1) - 1e8 = 0, but (1e8 - 1e8) + 1 = 1.
  const Tensor tokens = TensorOf(DType::kInt32, {3}, {0, 0, 0});
  for (const auto& [values, sum] :
       {std::pair<std::vector<double>, double>{{1e8, 1, -1e8}, 0}, {{1e8, -1e8, 1}, 1}}) {
    const Tensor d_out = TensorOf(DType::kFloat32, {3, 1}, values);
    const Tensor d_table = MakeTensor(DType::kFloat32, {1, 1});
    cpu::EmbeddingBackward(
        {.d_out = d_out.view(), .indices = tokens.view(), .d_table = d_table.view()});
    EXPECT_EQ(GetValue(d_table.view(), 0), sum);
  }
}

TEST(EmbeddingGradient, MatchesFiniteDifferences) {
  const Tensor tokens = TensorOf(DType::kInt32, {kTokens}, kIds);
  const Tensor table = RandomTensor(DType::kFloat64, {kVocab, kDim}, "table");
  const Tensor out = MakeTensor(DType::kFloat64, {kTokens, kDim});
  const Tensor d_out = RandomTensor(DType::kFloat64, {kTokens, kDim}, "d_out");
  const Tensor d_table = MakeTensor(DType::kFloat64, {kVocab, kDim});
  cpu::EmbeddingBackward(
      {.d_out = d_out.view(), .indices = tokens.view(), .d_table = d_table.view()});
  const auto loss = [&] {
    cpu::EmbeddingForward({.tokens = tokens.view(), .table = table.view(), .out = out.view()});
    return Dot(out.view(), d_out.view());
  };
  EXPECT_TRUE(GradientMatches(loss, table.view(), d_table.view()));
}

TEST(EmbeddingDeathTest, NamesThePositionOutsideTheTable) {
  const Tensor tokens = TensorOf(DType::kInt32, {1}, {0});
  const Tensor positions = TensorOf(DType::kInt32, {1}, {4});
  const Tensor table = MakeTensor(DType::kFloat32, {4, 2}),
               out = MakeTensor(DType::kFloat32, {1, 2});
  EXPECT_DEATH(cpu::EmbeddingForward({.tokens = tokens.view(),
                                      .table = table.view(),
                                      .position_table = table.view(),
                                      .positions = positions.view(),
                                      .out = out.view()}),
               "position 4 of token 0 is outside the position table");
}

}  // namespace
}  // namespace muster::kernels
