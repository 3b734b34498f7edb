#include "kernels/ops/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/range_tables.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

constexpr int64_t kSize = 2100;  // more than one block, no multiple of a vector's width

struct State {
  explicit State(DType dtype)
      : grad(RandomTensor(AccumulatorDType(dtype), {kSize}, "grad")),
        master(RandomTensor(AccumulatorDType(dtype), {kSize}, "master")),
        moment1(RandomTensor(AccumulatorDType(dtype), {kSize}, "moment1", 0.1)),
        moment2(MakeTensor(AccumulatorDType(dtype), {kSize})),
        weight(MakeTensor(dtype, {kSize})),
        grad_scale(TensorOf(AccumulatorDType(dtype), {1}, {0.5})) {
    for (int64_t i = 0; i < kSize; ++i) {
      SetValue(moment2.view(), i, std::pow(GetValue(grad.view(), kSize - 1 - i), 2));
    }
  }
  AdamWTensors Tensors() const {
    return {grad.view(), master.view(), moment1.view(), moment2.view(), weight.view()};
  }
  void Update() const { Update(Tensors(), {0, kSize}, {0.25f}); }
  void Update(const AdamWTensors& tensors, const std::vector<int64_t>& ends,
              const std::vector<float>& weight_decays, const TensorView& digests = {}) const {
    const auto stream = Stream::Create({}, StreamMode::kInline, "test");
    MUSTER_CHECK_OK(stream.status());
    const OwnedTable<AdamWRange> owned(tensors.Ranges(ends, weight_decays), stream->view());
    cpu::AdamW({.table = owned.table,
                .weight_dtype = tensors.weight.dtype,
                .grad_scale = grad_scale.view(),
                .learning_rate = 0.125f,
                .beta1 = 0.875f,
                .beta2 = 0.9375f,
                .epsilon = 1e-3f,
                .step = 3,
                .digests = digests});
  }
  // Of the state read and left by an update in three ranges.
  std::vector<int64_t> Digests(const AdamWTensors& tensors) const {
    const Tensor digests = MakeTensor(DType::kInt64, {3, 2});
    Update(tensors, {0, 701, 702, kSize}, {0.25f, 0.25f, 0.25f}, digests.view());
    const auto* found = digests.view().as<int64_t>();
    return {found, found + 6};
  }

  Tensor grad, master, moment1, moment2, weight, grad_scale;
};

class AdamWOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, AdamWOf, StorageDTypes(), DTypeName);

TEST_P(AdamWOf, MatchesReference) {
  State state(GetParam());
  std::vector<double> grad = Values(state.grad.view()), master = Values(state.master.view());
  std::vector<double> m = Values(state.moment1.view()), v = Values(state.moment2.view());
  const double epsilon = 1e-3f;
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * 0.5;
    m[i] = 0.875 * m[i] + 0.125 * g;
    v[i] = 0.9375 * v[i] + 0.0625 * g * g;
    const double m_hat = m[i] / (1 - std::pow(0.875, 3)), v_hat = v[i] / (1 - std::pow(0.9375, 3));
    master[i] -= 0.125 * (m_hat / (std::sqrt(v_hat) + epsilon) + 0.25 * master[i]);
  }
  state.Update();
  EXPECT_TRUE(IsClose(state.master.view(), master));
  EXPECT_TRUE(IsClose(state.moment1.view(), m));
  EXPECT_TRUE(IsClose(state.moment2.view(), v));
  EXPECT_TRUE(IsClose(state.weight.view(), master));
  EXPECT_EQ(Values(state.grad.view()), grad);
}

TEST_P(AdamWOf, WeightIsTheRoundedMaster) {
  State state(GetParam());
  state.Update();
  const Tensor rounded = TensorOf(GetParam(), {kSize}, Values(state.master.view()));
  EXPECT_EQ(Values(state.weight.view()), Values(rounded.view()));
}

TEST_P(AdamWOf, SkipsIfTheScaleIsZeroOrNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (double scale : {0.0, infinity, -infinity, std::nan("")}) {
    State state(GetParam());
    FillRandom(state.weight.view(), "weight");
    SetValue(state.grad_scale.view(), 0, scale);
    SetValue(state.grad.view(), 5, std::nan(""));
    const State before(GetParam());
    const std::vector<double> weight = Values(state.weight.view());
    state.Update();
    EXPECT_EQ(Values(state.master.view()), Values(before.master.view())) << scale;
    EXPECT_EQ(Values(state.moment1.view()), Values(before.moment1.view())) << scale;
    EXPECT_EQ(Values(state.moment2.view()), Values(before.moment2.view())) << scale;
    EXPECT_EQ(Values(state.weight.view()), weight) << scale;
  }
}

TEST_P(AdamWOf, RangesEqualTheWhole) {
  const State whole(GetParam()), ranges(GetParam());
  whole.Update();
  ranges.Update(ranges.Tensors(), {0, 701, 702, 702, kSize}, {0.25f, 0.25f, 0.25f, 0.25f});
  EXPECT_EQ(Values(ranges.master.view()), Values(whole.master.view()));
  EXPECT_EQ(Values(ranges.moment1.view()), Values(whole.moment1.view()));
  EXPECT_EQ(Values(ranges.moment2.view()), Values(whole.moment2.view()));
  EXPECT_EQ(Values(ranges.weight.view()), Values(whole.weight.view()));
}

TEST_P(AdamWOf, RangesHaveTheirOwnWeightDecay) {
  const State decayed(GetParam()), bare(GetParam()), mixed(GetParam());
  decayed.Update();
  bare.Update(bare.Tensors(), {0, kSize}, {0.0f});
  mixed.Update(mixed.Tensors(), {0, 1000, kSize}, {0.0f, 0.25f});
  for (int64_t i = 0; i < kSize; ++i) {
    const State& wanted = i < 1000 ? bare : decayed;
    EXPECT_EQ(GetValue(mixed.master.view(), i), GetValue(wanted.master.view(), i)) << i;
  }
  EXPECT_NE(GetValue(decayed.master.view(), 0), GetValue(bare.master.view(), 0));
}

class AdamWMaster : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, AdamWMaster, AccumulatorDTypes(), DTypeName);

TEST_P(AdamWMaster, MayBeTheWeight) {
  State apart(GetParam()), aliased(GetParam());
  apart.Update();
  AdamWTensors tensors = aliased.Tensors();
  tensors.weight = tensors.master;
  aliased.Update(tensors, {0, kSize}, {0.25f});
  EXPECT_EQ(Values(tensors.master), Values(apart.weight.view()));
}

// Columns of the ranges' [3, 2]: 0 as read, 1 as left.
std::vector<int64_t> Column(const std::vector<int64_t>& digests, size_t column) {
  return {digests[column], digests[2 + column], digests[4 + column]};
}

TEST_P(AdamWOf, TheStateLeftHasTheDigestsOfTheStateReadNext) {
  for (const bool apart : {true, false}) {
    if (!apart && GetParam() == DType::kBFloat16) continue;
    const State state(GetParam()), plain(GetParam());
    AdamWTensors tensors = state.Tensors();
    if (!apart) tensors.weight = tensors.master;
    const std::vector<int64_t> first = state.Digests(tensors), second = state.Digests(tensors);
    EXPECT_EQ(Column(first, 1), Column(second, 0));
    for (size_t r = 0; r < 3; ++r) EXPECT_NE(Column(first, 0)[r], Column(first, 1)[r]) << r;
    plain.Update();
    plain.Update();
    EXPECT_EQ(Values(plain.master.view()), Values(state.master.view())) << "digests change the sum";
  }
}

TEST_P(AdamWOf, AFlippedBitOfAnyPartOfTheStateShowsInTheDigestsRead) {
  const State state(GetParam());
  const std::vector<int64_t> left = Column(state.Digests(state.Tensors()), 1);
  for (const Tensor* part : {&state.master, &state.moment1, &state.moment2, &state.weight}) {
    for (const int64_t element : {702, 1500, 2099}) {
      SetValue(state.grad_scale.view(), 0, 0);  // so that the state stays
      const TensorView& view = part->view();
      char& byte = static_cast<char*>(view.data)[element * SizeOf(view.dtype)];
      byte = static_cast<char>(byte ^ 1);
      const std::vector<int64_t> found = Column(state.Digests(state.Tensors()), 0);
      byte = static_cast<char>(byte ^ 1);
      EXPECT_EQ(found[0], left[0]);
      EXPECT_EQ(found[1], left[1]);
      EXPECT_NE(found[2], left[2]) << element;
    }
  }
}

TEST_P(AdamWOf, ASkippedUpdateHasTheDigestsOfTheStateTwice) {
  for (const double scale : {0.0, std::nan("")}) {
    const State state(GetParam());
    const std::vector<int64_t> before = Column(state.Digests(state.Tensors()), 1);
    SetValue(state.grad_scale.view(), 0, scale);
    const std::vector<int64_t> skipped = state.Digests(state.Tensors());
    EXPECT_EQ(Column(skipped, 0), before);
    EXPECT_EQ(Column(skipped, 1), before);
  }
}

TEST(AdamW, FirstStepMovesByTheLearningRateAgainstTheSign) {
  const Tensor grad = TensorOf(DType::kFloat64, {2}, {1e-3, -1e3});
  const Tensor master = MakeTensor(DType::kFloat64, {2}),
               moment1 = MakeTensor(DType::kFloat64, {2});
  const Tensor moment2 = MakeTensor(DType::kFloat64, {2});
  const Tensor scale = TensorOf(DType::kFloat64, {1}, {1});
  const auto stream = Stream::Create({}, StreamMode::kInline, "test");
  ASSERT_TRUE(stream.ok());
  const AdamWTensors tensors{grad.view(), master.view(), moment1.view(), moment2.view(),
                             master.view()};
  const OwnedTable<AdamWRange> owned(tensors.Ranges({0, 2}, {0.0f}), stream->view());
  cpu::AdamW({.table = owned.table,
              .weight_dtype = DType::kFloat64,
              .grad_scale = scale.view(),
              .learning_rate = 0.5f,
              .epsilon = 1e-12f});
  EXPECT_NEAR(GetValue(master.view(), 0), -0.5, 1e-6);
  EXPECT_NEAR(GetValue(master.view(), 1), 0.5, 1e-6);
}

}  // namespace
}  // namespace muster::kernels
