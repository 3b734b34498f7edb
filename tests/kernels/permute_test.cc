#include "kernels/ops/permute.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kExperts = 5, kTokens = 12, kTopK = 3, kDim = 700;  // kDim: two blocks

// Three distinct experts a token, unevenly; expert 4 gets none.
std::vector<double> Choices() {
  std::vector<double> experts;
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> order =
        t % 3 == 0 ? std::vector<double>{2, 0, 1} : std::vector<double>{1, 3, double(t % 2) * 2};
    experts.insert(experts.end(), order.begin(), order.end());
  }
  return experts;
}

struct Sorted {
  std::vector<double> rows, counts, offsets;
  double dropped;
};
Sorted Sort(const std::vector<double>& choices, int64_t capacity = 0, int64_t group_tokens = 0) {
  const auto num_tokens = static_cast<int64_t>(choices.size()) / kTopK;
  const Tensor experts = TensorOf(DType::kInt32, {num_tokens, kTopK}, choices);
  const Tensor rows = RandomTensor(DType::kInt32, {num_tokens, kTopK}, "rows", 9);
  const Tensor counts = RandomTensor(DType::kInt64, {kExperts}, "counts", 9);
  const Tensor offsets = RandomTensor(DType::kInt64, {kExperts + 1}, "offsets", 9);
  const Tensor dropped = RandomTensor(DType::kInt64, {1}, "dropped", 9);
  cpu::SortByExpert({.experts = experts.view(),
                     .rows = rows.view(),
                     .counts = counts.view(),
                     .offsets = offsets.view(),
                     .dropped = dropped.view(),
                     .capacity = capacity,
                     .group_tokens = group_tokens});
  return {Values(rows.view()), Values(counts.view()), Values(offsets.view()),
          GetValue(dropped.view(), 0)};
}

// A stable sort of the choices that are kept.
Sorted ReferenceSort(const std::vector<double>& choices, const std::vector<bool>& kept) {
  std::vector<size_t> order;
  Sorted sorted{std::vector<double>(choices.size(), -1), std::vector<double>(kExperts), {0}, 0};
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!kept[i]) {
      ++sorted.dropped;
      continue;
    }
    order.push_back(i);
    ++sorted.counts[static_cast<size_t>(choices[i])];
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return choices[a] < choices[b]; });
  for (size_t row = 0; row < order.size(); ++row) {
    sorted.rows[order[row]] = static_cast<double>(row);
  }
  for (double count : sorted.counts) sorted.offsets.push_back(sorted.offsets.back() + count);
  return sorted;
}

void ExpectEqual(const Sorted& a, const Sorted& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.counts, b.counts);
  EXPECT_EQ(a.offsets, b.offsets);
  EXPECT_EQ(a.dropped, b.dropped);
}

TEST(SortByExpert, IsAStableSort) {
  const std::vector<double> choices = Choices();
  const Sorted sorted = Sort(choices);
  ExpectEqual(sorted, ReferenceSort(choices, std::vector<bool>(choices.size(), true)));
  EXPECT_EQ(sorted.counts[4], 0);
  EXPECT_EQ(sorted.offsets.back(), kTokens * kTopK);
}

TEST(SortByExpert, WithoutTokensHasNoRows) {
  const Sorted sorted = Sort({});
  EXPECT_EQ(sorted.offsets, std::vector<double>(kExperts + 1, 0.0));
  EXPECT_EQ(sorted.counts, std::vector<double>(kExperts, 0.0));
}

TEST(SortByExpert, CapacityKeepsTheFirstChoicesOfEachGroup) {
  const std::vector<double> choices = Choices();
  for (int64_t capacity : {1, 2, 4}) {
    for (int64_t group_tokens : {4, 5, 12}) {  // 5: the last group is shorter
      std::vector<bool> kept(choices.size());
      for (size_t i = 0; i < choices.size(); ++i) {
        const size_t group = i / kTopK / static_cast<size_t>(group_tokens);
        int64_t before = 0;
        for (size_t j = group * static_cast<size_t>(group_tokens) * kTopK; j < i; ++j) {
          before += choices[j] == choices[i];
        }
        kept[i] = before < capacity;
      }
      const Sorted sorted = Sort(choices, capacity, group_tokens);
      ExpectEqual(sorted, ReferenceSort(choices, kept));
      if (capacity == 1) EXPECT_GT(sorted.dropped, 0);
    }
  }
  EXPECT_EQ(Sort(choices, kTokens, kTokens).dropped, 0);
}

TEST(SortByExpertDeathTest, NamesTheUnknownExpert) {
  EXPECT_DEATH(Sort({0, 1, 5}), "choice 2 of token 0 is expert 5 of 5");
}

// Rows of Choices(), two of them dropped, and a bound above the rows in use.
class Permute : public ::testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t kRows = kTokens * kTopK + 4;
  Permute() {
    SetValue(rows_.view(), 4, -1);
    SetValue(rows_.view(), 30, -1);
  }
  int64_t Row(int64_t choice) const { return static_cast<int64_t>(GetValue(rows_.view(), choice)); }
  const Tensor rows_ = TensorOf(DType::kInt32, {kTokens, kTopK}, Sort(Choices()).rows);
};
INSTANTIATE_TEST_SUITE_P(, Permute, StorageDTypes(), DTypeName);

TEST_P(Permute, DispatchCopiesTokensToTheirRows) {
  const Tensor x = RandomTensor(GetParam(), {kTokens, kDim}, "x");
  const Tensor out = RandomTensor(GetParam(), {kRows, kDim}, "out");
  std::vector<double> expected = Values(out.view());
  for (int64_t choice = 0; choice < kTokens * kTopK; ++choice) {
    for (int64_t d = 0; Row(choice) >= 0 && d < kDim; ++d) {
      expected[static_cast<size_t>(Row(choice) * kDim + d)] =
          GetValue(x.view(), choice / kTopK * kDim + d);
    }
  }
  cpu::DispatchRows({.x = x.view(), .rows = rows_.view(), .out = out.view()});
  EXPECT_EQ(Values(out.view()), expected);
}

TEST_P(Permute, CombineSumsTheRowsOfAToken) {
  const Tensor x = RandomTensor(GetParam(), {kRows, kDim}, "x");
  for (bool accumulate : {false, true}) {
    const Tensor out = RandomTensor(GetParam(), {kTokens, kDim}, "out");
    std::vector<double> expected(kTokens * kDim);
    if (accumulate) expected = Values(out.view());
    for (int64_t choice = 0; choice < kTokens * kTopK; ++choice) {
      for (int64_t d = 0; Row(choice) >= 0 && d < kDim; ++d) {
        expected[static_cast<size_t>(choice / kTopK * kDim + d)] +=
            GetValue(x.view(), Row(choice) * kDim + d);
      }
    }
    cpu::CombineRows(
        {.x = x.view(), .rows = rows_.view(), .out = out.view(), .accumulate = accumulate});
    EXPECT_TRUE(IsClose(out.view(), expected));
  }
}

TEST_P(Permute, CombineOfDispatchCountsTheKeptChoices) {
  const Tensor x = RandomTensor(GetParam(), {kTokens, kDim}, "x");
  const Tensor routed = MakeTensor(GetParam(), {kRows, kDim});
  const Tensor out = MakeTensor(GetParam(), {kTokens, kDim});
  cpu::DispatchRows({.x = x.view(), .rows = rows_.view(), .out = routed.view()});
  cpu::CombineRows({.x = routed.view(), .rows = rows_.view(), .out = out.view()});
  std::vector<double> expected = Values(x.view());
  for (size_t i = 0; i < expected.size(); ++i) {
    const size_t token = i / kDim;
    expected[i] *= token == 1 || token == 10 ? 2 : 3;  // choices 4 and 30 are dropped
  }
  EXPECT_TRUE(IsClose(out.view(), expected));
}

TEST(Combine, RunsOverTheChoicesInOrder) {
  // Rows 0, 1, 2 hold 1e8, 1, -1e8. In fp32 1e8 + 1 - 1e8 = 0, but 1e8 - 1e8 + 1 = 1.
  const Tensor x = TensorOf(DType::kFloat32, {3, 1}, {1e8, 1, -1e8});
  const Tensor rows = TensorOf(DType::kInt32, {2, 3}, {0, 1, 2, 0, 2, 1});
  const Tensor out = MakeTensor(DType::kFloat32, {2, 1});
  cpu::CombineRows({.x = x.view(), .rows = rows.view(), .out = out.view()});
  EXPECT_EQ(Values(out.view()), (std::vector<double>{0, 1}));
}

TEST(DispatchGradient, MatchesFiniteDifferences) {
  const Tensor rows = TensorOf(DType::kInt32, {3, 2}, {4, 0, -1, 2, 1, 3});
  const Tensor x = RandomTensor(DType::kFloat64, {3, 2}, "x");
  const Tensor out = MakeTensor(DType::kFloat64, {5, 2}), d_x = MakeTensor(DType::kFloat64, {3, 2});
  const Tensor d_out = RandomTensor(DType::kFloat64, {5, 2}, "d_out");
  cpu::CombineRows({.x = d_out.view(), .rows = rows.view(), .out = d_x.view()});
  const auto loss = [&] {
    cpu::DispatchRows({.x = x.view(), .rows = rows.view(), .out = out.view()});
    return Dot(out.view(), d_out.view());
  };
  EXPECT_TRUE(GradientMatches(loss, x.view(), d_x.view()));
}

class PermuteWeights : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, PermuteWeights, AccumulatorDTypes(), DTypeName);

TEST_P(PermuteWeights, GoesToRowsAndBack) {
  const Tensor rows = TensorOf(DType::kInt32, {3, 2}, {4, 0, -1, 2, 1, 3});
  const Tensor by_choice = TensorOf(GetParam(), {3, 2}, {10, 11, 12, 13, 14, 15});
  const Tensor by_row = TensorOf(GetParam(), {6}, {-1, -1, -1, -1, -1, -1});
  PermuteWeightsArgs args{
      .values_Tk = by_choice.view(), .rows = rows.view(), .values_R = by_row.view()};
  cpu::PermuteWeights(args);
  EXPECT_EQ(Values(by_row.view()), (std::vector<double>{11, 14, 13, 15, 10, -1}));
  FillRandom(by_choice.view(), "other");
  args.to_tokens = true;
  cpu::PermuteWeights(args);
  EXPECT_EQ(Values(by_choice.view()), (std::vector<double>{10, 11, 0, 13, 14, 15}));
}

TEST(SumCounts, AddsTheExpertsOfEachRank) {
  const Tensor counts = TensorOf(DType::kInt64, {2, 3}, {1, 2, 3, 0, 0, 40000000000});
  const Tensor sums = TensorOf(DType::kInt64, {2}, {-1, -1});
  cpu::SumCounts({.counts = counts.view(), .sums = sums.view()});
  EXPECT_EQ(Values(sums.view()), (std::vector<double>{6, 40000000000}));
}

TEST(MergeSources, OrdersByExpertThenSource) {
  const Tensor counts = TensorOf(DType::kInt64, {3, 2}, {2, 1, 0, 2, 1, 0});
  const Tensor index = TensorOf(DType::kInt32, {8}, std::vector<double>(8, -7));
  const Tensor offsets = MakeTensor(DType::kInt64, {3}), total = MakeTensor(DType::kInt64, {1});
  cpu::MergeSources({.counts = counts.view(),
                     .index = index.view(),
                     .offsets = offsets.view(),
                     .row_count = total.view()});
  // Arrived: s0e0 s0e0 s0e1 s1e1 s1e1 s2e0. In expert order: s0e0 s0e0 s2e0 s0e1 s1e1 s1e1.
  EXPECT_EQ(Values(index.view()), (std::vector<double>{0, 1, 3, 4, 5, 2, -7, -7}));
  EXPECT_EQ(Values(offsets.view()), (std::vector<double>{0, 3, 6}));
  EXPECT_EQ(GetValue(total.view(), 0), 6);
}

TEST(MergeSourcesDeathTest, RefusesMoreRowsThanPlanned) {
  const Tensor counts = TensorOf(DType::kInt64, {1, 2}, {2, 2});
  const Tensor index = MakeTensor(DType::kInt32, {3}), offsets = MakeTensor(DType::kInt64, {3});
  const Tensor total = MakeTensor(DType::kInt64, {1});
  EXPECT_DEATH(cpu::MergeSources({.counts = counts.view(),
                                  .index = index.view(),
                                  .offsets = offsets.view(),
                                  .row_count = total.view()}),
               "4 rows arrived, the planned bound is 3");
}

TEST_P(Permute, GatherRowsPermutesAndItsInverseUndoesIt) {
  for (int64_t dim : {int64_t{1}, int64_t{19}}) {
    const Tensor index = TensorOf(DType::kInt32, {6}, {2, 0, 3, 1, 77, 77});
    const Tensor count = TensorOf(DType::kInt64, {1}, {4});
    const Tensor x = RandomTensor(GetParam(), {6, dim}, "x");
    const Tensor sorted = RandomTensor(GetParam(), {6, dim}, "before");
    const Tensor back = RandomTensor(GetParam(), {6, dim}, "before");
    GatherRowsArgs args{
        .x = x.view(), .index = index.view(), .row_count = count.view(), .out = sorted.view()};
    cpu::GatherRows(args);
    const auto row = [](const Tensor& tensor, int64_t r) {
      return Values(tensor.view().Slice(0, r, r + 1));
    };
    EXPECT_EQ(row(sorted, 2), row(x, 0));
    EXPECT_EQ(row(sorted, 0), row(x, 1));
    EXPECT_EQ(row(sorted, 3), row(x, 2));
    EXPECT_EQ(row(sorted, 1), row(x, 3));
    args.x = sorted.view();
    args.out = back.view();
    args.inverse = true;
    cpu::GatherRows(args);
    for (int64_t r = 0; r < 4; ++r) EXPECT_EQ(row(back, r), row(x, r));
    for (int64_t r = 4; r < 6; ++r) EXPECT_NE(row(back, r), row(x, r));  // not in use
  }
}

}  // namespace
}  // namespace muster::kernels
