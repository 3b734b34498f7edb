#include "kernels/ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kTokens = 5;
const std::vector<double> kTargets = {0, 4999, -100, 17, 2500};

// Loss and gradient of logits [T, V], computed over `num_shards` shards of the vocabulary.
struct Result {
  std::vector<double> losses, d_logits;
};
Result RunShards(const Tensor& logits, const std::vector<double>& ids, int64_t num_shards,
                 float scale) {
  const DType dtype = logits.view().dtype, accumulator = AccumulatorDType(dtype);
  const int64_t num_tokens = logits.view().shape[0], vocab = logits.view().shape[1];
  const Tensor targets = TensorOf(DType::kInt32, {num_tokens}, ids);
  const Tensor shards = MakeTensor(accumulator, {num_shards, num_tokens, 3});
  std::vector<Tensor> parts;
  const auto begin_of = [&](int64_t shard) { return vocab * shard / num_shards; };
  for (int64_t s = 0; s < num_shards; ++s) {
    const TensorView slice = logits.view().Slice(1, begin_of(s), begin_of(s + 1));
    parts.push_back(TensorOf(dtype, slice.shape, Values(slice)));
    const TensorView stats = shards.view().Slice(0, s, s + 1).Reshape({num_tokens, 3});
    cpu::CrossEntropyStats({.logits = parts.back().view(),
                            .targets = targets.view(),
                            .stats = stats,
                            .vocab_begin = begin_of(s)});
  }
  const Tensor stats = MakeTensor(accumulator, {num_tokens, 3});
  const Tensor losses = MakeTensor(accumulator, {num_tokens});
  cpu::CrossEntropyMergeStats({.shards = shards.view(), .stats = stats.view()});
  cpu::CrossEntropyLoss(
      {.stats = stats.view(), .targets = targets.view(), .losses = losses.view()});
  const Tensor d_logits = MakeTensor(dtype, {num_tokens, vocab});
  for (int64_t s = 0; s < num_shards; ++s) {
    const TensorView part = parts[static_cast<size_t>(s)].view();
    cpu::CrossEntropyBackward({.logits = part,
                               .targets = targets.view(),
                               .stats = stats.view(),
                               .scale = scale,
                               .vocab_begin = begin_of(s)});
    SetValues(d_logits.view().Slice(1, begin_of(s), begin_of(s + 1)), Values(part));
  }
  return {Values(losses.view()), Values(d_logits.view())};
}

Result Reference(const std::vector<double>& logits, const std::vector<double>& ids, double scale) {
  const size_t vocab = logits.size() / ids.size();
  Result result{std::vector<double>(ids.size()), std::vector<double>(logits.size())};
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0) continue;
    const double* row = logits.data() + t * vocab;
    const double max = *std::max_element(row, row + vocab);
    double sum = 0;
    for (size_t v = 0; v < vocab; ++v) sum += std::exp(row[v] - max);
    const auto target = static_cast<size_t>(ids[t]);
    result.losses[t] = std::log(sum) + max - row[target];
    for (size_t v = 0; v < vocab; ++v) {
      const double onehot = v == target ? 1 : 0;
      result.d_logits[t * vocab + v] = (std::exp(row[v] - max) / sum - onehot) * scale;
    }
  }
  return result;
}

::testing::AssertionResult Matches(DType dtype, const std::vector<double>& actual,
                                   const std::vector<double>& reference) {
  const Tensor tensor = TensorOf(DType::kFloat64, {static_cast<int64_t>(actual.size())}, actual);
  return IsClose(tensor.view(), reference, ToleranceOf(dtype));
}

class CrossEntropy : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, CrossEntropy, StorageDTypes(), DTypeName);

TEST_P(CrossEntropy, AnyNumberOfShardsMatchesReference) {
  const Tensor logits = RandomTensor(GetParam(), {kTokens, 5000}, "logits", 3.0);
  const Result reference = Reference(Values(logits.view()), kTargets, 0.25);
  for (int64_t num_shards : {1, 2, 3}) {
    const Result result = RunShards(logits, kTargets, num_shards, 0.25f);
    EXPECT_TRUE(Matches(AccumulatorDType(GetParam()), result.losses, reference.losses));
    EXPECT_TRUE(Matches(GetParam(), result.d_logits, reference.d_logits)) << num_shards;
  }
}

TEST_P(CrossEntropy, IgnoredTargetsHaveNeitherLossNorGradient) {
  const Tensor logits = RandomTensor(GetParam(), {2, 40}, "logits", 3.0);
  for (double ignored : {-100.0, -1.0}) {
    // A shard that begins at 1 must not take -1 for its own first id less one.
    const Result result = RunShards(logits, {ignored, 39}, 3, 1.0f);
    EXPECT_EQ(result.losses[0], 0);
    EXPECT_GT(result.losses[1], 0);
    for (size_t v = 0; v < 40; ++v) {
      EXPECT_EQ(result.d_logits[v], 0);
      EXPECT_NE(result.d_logits[40 + v], 0);
    }
  }
}

TEST_P(CrossEntropy, RowsThatLieApartGiveTheSameBits) {
  const int64_t tokens = 3, vocab = 37, gap = 27;
  const Tensor targets = TensorOf(DType::kInt32, {tokens}, {0, 36, 11});
  const Tensor together = RandomTensor(GetParam(), {tokens, vocab}, "logits", 3.0);
  const Tensor memory = RandomTensor(GetParam(), {tokens, vocab + gap}, "gaps", 3.0);
  const TensorView apart = memory.view().Slice(1, 0, vocab);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t v = 0; v < vocab; ++v) {
      SetValue(memory.view(), t * (vocab + gap) + v, GetValue(together.view(), t * vocab + v));
    }
  }
  const std::vector<double> before = Values(memory.view());
  const DType accumulator = AccumulatorDType(GetParam());
  const Tensor stats = MakeTensor(accumulator, {tokens, 3});
  const Tensor stats_apart = MakeTensor(accumulator, {tokens, 3});
  cpu::CrossEntropyStats({together.view(), targets.view(), stats.view()});
  cpu::CrossEntropyStats({apart, targets.view(), stats_apart.view()});
  EXPECT_EQ(Values(stats.view()), Values(stats_apart.view()));
  cpu::CrossEntropyBackward({together.view(), targets.view(), stats.view(), 0.5f});
  cpu::CrossEntropyBackward({apart, targets.view(), stats.view(), 0.5f});
  const std::vector<double> after = Values(memory.view());
  for (int64_t i = 0; i < memory.view().num_elements(); ++i) {
    const int64_t t = i / (vocab + gap), v = i % (vocab + gap);
    const auto index = static_cast<size_t>(i);
    EXPECT_EQ(after[index], v < vocab ? GetValue(together.view(), t * vocab + v) : before[index]);
  }
}

TEST_P(CrossEntropy, HugeLogitsDoNotOverflow) {
  const Tensor logits = TensorOf(GetParam(), {2, 4}, {1e30, -1e30, 0, 1, -4096, -4096, -8192, 0});
  for (int64_t num_shards : {1, 2}) {
    const Result result = RunShards(logits, {0, 3}, num_shards, 1.0f);
    EXPECT_EQ(result.losses, (std::vector<double>{0, 0}));
    EXPECT_EQ(result.d_logits, std::vector<double>(8, 0.0));
    EXPECT_TRUE(Matches(GetParam(), RunShards(logits, {0, 1}, num_shards, 1.0f).losses, {0, 4096}));
  }
}

TEST_P(CrossEntropy, MaskedShardsCountNothing) {
  const double masked = -std::numeric_limits<double>::infinity();
  const Tensor logits = TensorOf(GetParam(), {1, 4}, {2, 2, masked, masked});
  for (int64_t num_shards : {1, 2}) {
    const Result result = RunShards(logits, {0}, num_shards, 1.0f);
    EXPECT_TRUE(Matches(GetParam(), result.losses, {std::log(2.0)}));
    EXPECT_TRUE(Matches(GetParam(), result.d_logits, {-0.5, 0.5, 0, 0}));
  }
}

TEST_P(CrossEntropy, NanReachesTheLoss) {
  for (size_t at : {0, 1, 30}) {
    std::vector<double> values(40, 1.0);
    values[at] = std::nan("");
    EXPECT_TRUE(
        std::isnan(RunShards(TensorOf(GetParam(), {1, 40}, values), {5}, 2, 1.0f).losses[0]));
  }
}

TEST(CrossEntropyGradient, MatchesFiniteDifferences) {
  const Tensor logits = RandomTensor(DType::kFloat64, {3, 23}, "logits");
  const std::vector<double> ids = {4, -100, 22};
  const Tensor analytic =
      TensorOf(DType::kFloat64, {3, 23}, RunShards(logits, ids, 3, 0.5f).d_logits);
  const auto loss = [&] {
    double sum = 0;
    for (double value : RunShards(logits, ids, 3, 0.5f).losses) sum += value * 0.5;
    return sum;
  };
  EXPECT_TRUE(GradientMatches(loss, logits.view(), analytic.view()));
}

}  // namespace
}  // namespace muster::kernels
