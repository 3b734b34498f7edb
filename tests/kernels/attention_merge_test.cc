#include "kernels/ops/attention_merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/copy_rows.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Result {
  Tensor out, lse;
};

// Queries [query, query + count) of q against keys [key, key_end), all of them visible.
Result Attend(const Tensor& q, const Tensor& kv, int64_t query, int64_t key, int64_t key_end) {
  const TensorView queries = q.view().Slice(1, query, q.view().shape[1]);
  const int64_t kv_heads = kv.view().shape[2] / 2;
  const TensorView keys = kv.view().Slice(1, key, key_end);
  const DType accumulator = AccumulatorDType(q.view().dtype);
  Result result{MakeTensor(q.view().dtype, queries.shape),
                MakeTensor(accumulator, {queries.shape[0], queries.shape[2], queries.shape[1]})};
  cpu::AttentionForward({.q = queries,
                         .k = keys.Slice(2, 0, kv_heads),
                         .v = keys.Slice(2, kv_heads, 2 * kv_heads),
                         .out = result.out.view(),
                         .lse = result.lse.view(),
                         .scale = 0.5f,
                         .causal = false});
  return result;
}

// The same values in the accumulator dtype.
Tensor Widened(const Tensor& x) {
  return TensorOf(AccumulatorDType(x.view().dtype), x.view().shape, Values(x.view()));
}

class AttentionMergeCase : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, AttentionMergeCase,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64),
                         DTypeName);

// All queries see keys 0 to 9, the last 5 of 12 also keys 10 to 24.
TEST_P(AttentionMergeCase, TwoSetsOfKeysGiveTheirUnion) {
  constexpr int64_t kBegin = 7;
  const Tensor q = RandomTensor(GetParam(), {2, 12, 4, 6}, "q");
  const Tensor kv = RandomTensor(GetParam(), {2, 25, 4, 6}, "kv");
  const Result first = Attend(q, kv, 0, 0, 10), second = Attend(q, kv, kBegin, 10, 25);
  const Result both = Attend(q, kv, kBegin, 0, 25);
  const Tensor out = Widened(first.out), lse = Widened(first.lse);
  AttentionMergeArgs args{.part = second.out.view(),
                          .part_lse = second.lse.view(),
                          .out = out.view(),
                          .lse = lse.view(),
                          .begin = kBegin};
  cpu::AttentionMerge(args);
  const Tolerance tolerance = ToleranceOf(GetParam());
  EXPECT_TRUE(IsClose(out.view().Slice(1, kBegin, 12), Values(both.out.view()), tolerance));
  EXPECT_TRUE(IsClose(lse.view().Slice(2, kBegin, 12), Values(both.lse.view()), tolerance));
  EXPECT_EQ(Values(out.view().Slice(1, 0, kBegin)), Values(first.out.view().Slice(1, 0, kBegin)));
  EXPECT_EQ(Values(lse.view().Slice(2, 0, kBegin)), Values(first.lse.view().Slice(2, 0, kBegin)));
}

TEST(AttentionMerge, SideWithoutKeysLeavesTheOther) {
  const Tensor part = TensorOf(DType::kFloat32, {1, 3, 1, 2}, {1, 2, 3, 4, 0, 0});
  const Tensor part_lse = TensorOf(DType::kFloat32, {1, 1, 3}, {0.5, -kInfinity, -kInfinity});
  const Tensor out = TensorOf(DType::kFloat32, {1, 3, 1, 2}, {0, 0, 7, 8, 0, 0});
  const Tensor lse = TensorOf(DType::kFloat32, {1, 1, 3}, {-kInfinity, 2, -kInfinity});
  AttentionMergeArgs args{
      .part = part.view(), .part_lse = part_lse.view(), .out = out.view(), .lse = lse.view()};
  cpu::AttentionMerge(args);
  EXPECT_EQ(Values(out.view()), (std::vector<double>{1, 2, 7, 8, 0, 0}));
  EXPECT_EQ(Values(lse.view()), (std::vector<double>{0.5, 2, -kInfinity}));
}

TEST(AttentionMergeDeathTest, RowsBeyondTheEndAreRefused) {
  const Tensor part = MakeTensor(DType::kFloat32, {1, 3, 1, 2});
  const Tensor part_lse = MakeTensor(DType::kFloat32, {1, 1, 3});
  AttentionMergeArgs args{.part = part.view(),
                          .part_lse = part_lse.view(),
                          .out = part.view(),
                          .lse = part_lse.view(),
                          .begin = 1};
  EXPECT_DEATH(cpu::AttentionMerge(args), "rows 1 to 4 of 3");
}

TEST(CopyRows, CopiesAndAddsASliceOnly) {
  const Tensor x = TensorOf(DType::kFloat32, {2, 2, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Tensor out = MakeTensor(DType::kFloat64, {2, 3, 4});
  const TensorView slice = out.view().Slice(1, 1, 3).Slice(2, 1, 3);
  CopyRowsArgs args{.x = x.view().Slice(2, 0, 2), .out = slice};
  cpu::CopyRows(args);
  EXPECT_EQ(Values(out.view()), (std::vector<double>{0, 0, 0, 0, 0, 1, 2, 0, 0, 4,  5,  0,  //
                                                     0, 0, 0, 0, 0, 7, 8, 0, 0, 10, 11, 0}));
  args.accumulate = true;
  cpu::CopyRows(args);
  EXPECT_EQ(Values(slice), (std::vector<double>{2, 4, 8, 10, 14, 16, 20, 22}));
}

TEST(CopyRows, RoundsToTheOutputOnce) {
  const Tensor x = TensorOf(DType::kFloat32, {1, 1, 2}, {1.00390625, -3});  // 1 + 2^-8
  const Tensor out = TensorOf(DType::kBFloat16, {1, 1, 2}, {1.0 / 256, 1});
  CopyRowsArgs args{.x = x.view(), .out = out.view(), .accumulate = true};
  cpu::CopyRows(args);
  EXPECT_EQ(Values(out.view()), (std::vector<double>{1.0078125, -2}));
}

}  // namespace
}  // namespace muster::kernels
