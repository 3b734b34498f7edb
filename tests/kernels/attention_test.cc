#include "kernels/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/naive_attention.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  const char* name;
  int64_t batch, num_queries, num_keys, num_heads, num_kv_heads, channels;
  bool causal = true;
  int64_t q_begin = 0, k_begin = 0;
  int64_t value_head_size = 0;  // 0: channels
  int64_t value_channels() const { return value_head_size > 0 ? value_head_size : channels; }
};

// Columns [begin, begin + count C) of packed [B, S, width] as [B, S, count, C].
TensorView HeadsAt(const TensorView& packed, int64_t begin, int64_t count, int64_t channels) {
  TensorView x = packed.Slice(2, begin, begin + count * channels);
  const int64_t batch_stride = x.strides[0], token_stride = x.strides[1];
  x.shape = {packed.shape[0], packed.shape[1], count, channels};
  x.strides = {batch_stride, token_stride, channels, 1};
  return x;
}

// All tensors of a forward and a backward. q lies in a packed tensor with unused channels on both
// sides, k and v in one packed tensor, and so do their gradients, which start as NaN.
struct Attention {
  Case c;
  DType dtype;
  Tensor q_memory, kv_memory, d_q_memory, d_kv_memory, out, lse, d_out, delta;
  TensorView q, k, v, d_q, d_k, d_v;
  float scale;

  Attention(const Case& shape, DType type) : c(shape), dtype(type) {
    const int64_t q_width = (c.num_heads + 2) * c.channels;
    const int64_t v_begin = c.num_kv_heads * c.channels;
    const int64_t kv_width = v_begin + c.num_kv_heads * c.value_channels();
    q_memory = RandomTensor(dtype, {c.batch, c.num_queries, q_width}, "q");
    kv_memory = RandomTensor(dtype, {c.batch, c.num_keys, kv_width}, "kv");
    d_q_memory = MakeTensor(dtype, {c.batch, c.num_queries, q_width});
    d_kv_memory = MakeTensor(dtype, {c.batch, c.num_keys, kv_width});
    FillNan(d_q_memory.view());
    FillNan(d_kv_memory.view());
    out = MakeTensor(dtype, {c.batch, c.num_queries, c.num_heads, c.value_channels()});
    FillNan(out.view());
    d_out = RandomTensor(dtype, out.view().shape, "d_out");
    lse = MakeTensor(AccumulatorDType(dtype), {c.batch, c.num_heads, c.num_queries});
    delta = MakeTensor(AccumulatorDType(dtype), lse.view().shape);
    q = HeadsAt(q_memory.view(), c.channels, c.num_heads, c.channels);
    d_q = HeadsAt(d_q_memory.view(), c.channels, c.num_heads, c.channels);
    k = HeadsAt(kv_memory.view(), 0, c.num_kv_heads, c.channels);
    v = HeadsAt(kv_memory.view(), v_begin, c.num_kv_heads, c.value_channels());
    d_k = HeadsAt(d_kv_memory.view(), 0, c.num_kv_heads, c.channels);
    d_v = HeadsAt(d_kv_memory.view(), v_begin, c.num_kv_heads, c.value_channels());
    scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.channels)));
  }
  static void FillNan(const TensorView& x) {
    for (int64_t i = 0; i < x.num_elements(); ++i) SetValue(x, i, std::nan(""));
  }
  AttentionForwardArgs ForwardArgs() const {
    return {.q = q,
            .k = k,
            .v = v,
            .out = out.view(),
            .lse = lse.view(),
            .scale = scale,
            .causal = c.causal,
            .q_begin = c.q_begin,
            .k_begin = c.k_begin};
  }
  AttentionBackwardArgs BackwardArgs() const {
    return {.d_out = d_out.view(),
            .q = q,
            .k = k,
            .v = v,
            .out = out.view(),
            .lse = lse.view(),
            .d_q = d_q,
            .d_k = d_k,
            .d_v = d_v,
            .delta = delta.view(),
            .scale = scale,
            .causal = c.causal,
            .q_begin = c.q_begin,
            .k_begin = c.k_begin};
  }
};

class AttentionCase : public ::testing::TestWithParam<std::tuple<Case, DType>> {};

TEST_P(AttentionCase, ForwardEqualsDefinition) {
  const Attention attention(std::get<0>(GetParam()), std::get<1>(GetParam()));
  cpu::AttentionForward(attention.ForwardArgs());
  const NaiveAttention expected = NaiveAttentionForward(attention.ForwardArgs());
  EXPECT_TRUE(IsClose(attention.out.view(), expected.out));
  EXPECT_TRUE(IsClose(attention.lse.view(), expected.lse));
}

TEST_P(AttentionCase, GradientsEqualDefinition) {
  const Attention attention(std::get<0>(GetParam()), std::get<1>(GetParam()));
  cpu::AttentionForward(attention.ForwardArgs());
  cpu::AttentionBackward(attention.BackwardArgs());
  const NaiveAttention expected =
      NaiveAttentionBackward(attention.ForwardArgs(), attention.d_out.view());
  EXPECT_TRUE(IsClose(attention.d_q, expected.d_q));
  EXPECT_TRUE(IsClose(attention.d_k, expected.d_k));
  EXPECT_TRUE(IsClose(attention.d_v, expected.d_v));
}

// The sizes cross the blocks of 64 queries and 512 keys.
INSTANTIATE_TEST_SUITE_P(
    Attention, AttentionCase,
    ::testing::Combine(
        ::testing::Values(
            Case{"OneToken", 1, 1, 1, 1, 1, 4}, Case{"Causal", 2, 33, 33, 2, 2, 8},
            Case{"Full", 2, 33, 33, 2, 2, 8, false}, Case{"GroupsOfTwo", 1, 40, 40, 4, 2, 16},
            Case{"OneKeyHead", 1, 40, 40, 3, 1, 16}, Case{"QueryBlocks", 1, 131, 131, 2, 1, 8},
            Case{"KeyBlocks", 1, 70, 1040, 2, 1, 8, true, 970, 0},
            Case{"KeyBlocksFull", 1, 20, 1040, 1, 1, 8, false},
            Case{"LaterQueries", 1, 20, 50, 2, 2, 8, true, 30, 0},
            Case{"SomeRowsSeeNoKey", 1, 90, 50, 2, 2, 8, true, 0, 25},
            Case{"NoRowSeesAKey", 1, 9, 7, 2, 1, 8, true, 3, 100},
            Case{"NarrowValues", 1, 131, 131, 4, 2, 24, true, 0, 0, 16},
            Case{"WideValues", 2, 33, 40, 2, 1, 8, true, 7, 0, 20},
            Case{"LatentHeads", 1, 70, 70, 2, 2, 192, true, 0, 0, 128},
            Case{"NoKeys", 1, 9, 0, 2, 1, 8, false}, Case{"NoQueries", 1, 0, 9, 2, 1, 8}),
        ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat64)),
    [](const ::testing::TestParamInfo<std::tuple<Case, DType>>& info) {
      return std::string(std::get<0>(info.param).name) + "_" + Name(std::get<1>(info.param));
    });

TEST(Attention, GradientsMatchFiniteDifferences) {
  const std::vector<Case> cases = {{"causal", 1, 6, 6, 4, 2, 3},
                                   {"full", 2, 4, 5, 2, 1, 3, false},
                                   {"shifted", 1, 5, 6, 2, 2, 3, true, 2, 3},
                                   {"narrow values", 1, 6, 6, 4, 2, 3, true, 0, 0, 2},
                                   {"wide values", 2, 4, 5, 2, 1, 2, false, 0, 0, 5},
                                   {"latent heads", 1, 3, 3, 2, 2, 192, true, 0, 0, 128}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Attention attention(c, DType::kFloat64);
    cpu::AttentionForward(attention.ForwardArgs());
    cpu::AttentionBackward(attention.BackwardArgs());
    const std::vector<double> d_out = Values(attention.d_out.view());
    const auto loss = [&] {
      cpu::AttentionForward(attention.ForwardArgs());
      double sum = 0;
      const std::vector<double> out = Values(attention.out.view());
      for (size_t i = 0; i < out.size(); ++i) sum += out[i] * d_out[i];
      return sum;
    };
    EXPECT_TRUE(GradientMatches(loss, attention.q, attention.d_q));
    EXPECT_TRUE(GradientMatches(loss, attention.k, attention.d_k));
    EXPECT_TRUE(GradientMatches(loss, attention.v, attention.d_v));
  }
}

TEST(Attention, RowsWithoutKeysGiveZeroAndMinusInfinity) {
  const Attention attention({"", 1, 8, 8, 1, 1, 4, true, 0, 5}, DType::kFloat32);
  cpu::AttentionForward(attention.ForwardArgs());
  cpu::AttentionBackward(attention.BackwardArgs());
  for (int64_t i = 0; i < 8; ++i) {
    const bool sees_none = i < 5;
    EXPECT_EQ(GetValue(attention.lse.view(), i) == -kInfinity, sees_none) << i;
    EXPECT_EQ(GetValue(attention.out.view(), i * 4) == 0, sees_none) << i;
    if (sees_none) EXPECT_EQ(GetValue(attention.d_q, i * 4), 0) << i;
  }
}

// What is written next to the heads of a packed tensor belongs to others.
TEST(Attention, WritesOnlyItsHeads) {
  const Attention attention({"", 1, 5, 5, 2, 1, 4}, DType::kFloat32);
  cpu::AttentionForward(attention.ForwardArgs());
  cpu::AttentionBackward(attention.BackwardArgs());
  int64_t untouched = 0;
  for (double value : Values(attention.d_q_memory.view())) untouched += std::isnan(value);
  EXPECT_EQ(untouched, 5 * 2 * 4);  // a head on either side of the two
}

TEST(Attention, LargeScoresDoNotOverflow) {
  Attention attention({"", 1, 40, 40, 1, 1, 8}, DType::kFloat32);
  attention.scale = 300;
  cpu::AttentionForward(attention.ForwardArgs());
  const NaiveAttention expected = NaiveAttentionForward(attention.ForwardArgs());
  // Scores of some thousands carry an absolute error of 1e-4 into the exponent.
  EXPECT_TRUE(IsClose(attention.out.view(), expected.out, {1e-3, 1e-3}));
  EXPECT_TRUE(IsClose(attention.lse.view(), expected.lse));
}

// One ring step: the same queries against keys [begin, end) only.
Attention OnKeys(const Attention& whole, int64_t begin, int64_t end) {
  Case c = whole.c;
  c.num_keys = end - begin;
  c.k_begin = whole.c.k_begin + begin;
  Attention part(c, whole.dtype);
  SetValues(part.q, Values(whole.q));
  SetValues(part.k, Values(whole.k.Slice(1, begin, end)));
  SetValues(part.v, Values(whole.v.Slice(1, begin, end)));
  SetValues(part.d_out.view(), Values(whole.d_out.view()));
  return part;
}

// Merges the partial results of all parts into `out` and `lse`, as ring attention does.
void MergeByLse(const std::vector<Attention>& parts, const TensorView& out, const TensorView& lse) {
  ForEachQuery(out, [&](int64_t b, int64_t h, int64_t i) {
    const int64_t row = (b * out.shape[2] + h) * out.shape[1] + i;
    double max = -kInfinity, sum = 0;
    for (const Attention& part : parts) max = std::max(max, GetValue(part.lse.view(), row));
    for (const Attention& part : parts) sum += std::exp(GetValue(part.lse.view(), row) - max);
    SetValue(lse, row, max + std::log(sum));
    for (int64_t c = 0; c < out.shape[3]; ++c) {
      const int64_t index = static_cast<int64_t>(RowOf(out, b, i, h)) + c;
      double value = 0;
      for (const Attention& part : parts) {
        value +=
            std::exp(GetValue(part.lse.view(), row) - max) / sum * GetValue(part.out.view(), index);
      }
      SetValue(out, index, value);
    }
  });
}

TEST(Attention, BlocksOfKeysMergeByLogSumExp) {
  const Attention whole({"", 2, 24, 24, 4, 2, 8, true, 0, 0, 6}, DType::kFloat64);
  cpu::AttentionForward(whole.ForwardArgs());
  cpu::AttentionBackward(whole.BackwardArgs());
  std::vector<Attention> parts;
  for (int64_t begin : {0, 8, 16}) parts.push_back(OnKeys(whole, begin, begin + 8));
  for (const Attention& part : parts) cpu::AttentionForward(part.ForwardArgs());
  const Tensor out = MakeTensor(DType::kFloat64, whole.out.view().shape);
  const Tensor lse = MakeTensor(DType::kFloat64, whole.lse.view().shape);
  MergeByLse(parts, out.view(), lse.view());
  EXPECT_TRUE(IsClose(out.view(), Values(whole.out.view())));
  EXPECT_TRUE(IsClose(lse.view(), Values(whole.lse.view())));

  // With the merged result, the blocks' gradients are the pieces of the whole's.
  std::vector<double> d_q(static_cast<size_t>(whole.q.num_elements()));
  for (size_t part = 0; part < parts.size(); ++part) {
    AttentionBackwardArgs args = parts[part].BackwardArgs();
    args.out = out.view();
    args.lse = lse.view();
    cpu::AttentionBackward(args);
    const std::vector<double> d_q_part = Values(args.d_q);
    for (size_t i = 0; i < d_q.size(); ++i) d_q[i] += d_q_part[i];
    const int64_t begin = static_cast<int64_t>(part) * 8;
    EXPECT_TRUE(IsClose(args.d_k, Values(whole.d_k.Slice(1, begin, begin + 8))));
    EXPECT_TRUE(IsClose(args.d_v, Values(whole.d_v.Slice(1, begin, begin + 8))));
  }
  EXPECT_TRUE(IsClose(whole.d_q, d_q));
}

TEST(AttentionDeathTest, RejectsOutputsThatAreNotOfTheValuesHeadSize) {
  const Attention attention({"", 1, 4, 4, 2, 2, 8, true, 0, 0, 4}, DType::kFloat32);
  AttentionForwardArgs args = attention.ForwardArgs();
  args.out = args.q;
  EXPECT_DEATH(cpu::AttentionForward(args), "argument out wants fp32\\[1, 4, 2, 4\\]");
}

TEST(AttentionDeathTest, RejectsHeadsThatDoNotDivide) {
  EXPECT_DEATH(
      cpu::AttentionForward(Attention({"", 1, 4, 4, 3, 2, 4}, DType::kFloat32).ForwardArgs()),
      "3 query heads do not divide among 2");
}

}  // namespace
}  // namespace muster::kernels
