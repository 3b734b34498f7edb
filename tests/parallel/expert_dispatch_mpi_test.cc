// Dispatch and combine against a plain reference that each rank computes from all ranks' choices:
// made-up choices are a function of (case, rank, token), so every rank knows them all.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <ostream>
#include <set>

#include "parallel/comm/collectives.h"
#include "parallel/ep/dispatch.h"
#include "parallel/mesh/mesh.h"
#include "tests/support/kernels/tolerance.h"
#include "tests/support/mpi_main.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using kernels::GetValue;
using kernels::MakeTensor;
using kernels::RandomTensor;
using kernels::SetValue;
using kernels::StreamMode;
using kernels::Tensor;
using kernels::TensorOf;
using kernels::Values;

enum class Choice {
  kRandom,
  kOneExpert,    // all first choices go to expert 1, the others to the experts after it
  kFirstExperts  // the second half of the experts is never chosen
};

struct RouteCase {
  std::string name;
  int64_t tokens, experts_per_rank;
  int top_k;
  int64_t capacity, group_tokens;
  Choice choice;
  bool queue = false;
};

void PrintTo(const RouteCase& route, std::ostream* out) { *out << route.name; }

std::vector<RouteCase> Cases() {
  return {
      {"random", 24, 4, 3, 0, 0, Choice::kRandom},
      {"random_on_queue", 24, 4, 3, 0, 0, Choice::kRandom, true},
      {"top_1", 17, 2, 1, 0, 0, Choice::kRandom},
      {"one_expert_a_rank", 16, 1, 1, 0, 0, Choice::kRandom},
      {"one_token", 1, 4, 2, 0, 0, Choice::kRandom},
      {"all_to_one_expert", 24, 2, 1, 0, 0, Choice::kOneExpert},
      {"mostly_one_expert_on_queue", 24, 2, 2, 0, 0, Choice::kOneExpert, true},
      {"empty_experts", 24, 4, 2, 0, 0, Choice::kFirstExperts},
      {"capacity", 24, 4, 3, 2, 8, Choice::kRandom},
      {"capacity_one_expert", 24, 2, 1, 3, 6, Choice::kOneExpert, true},
      {"capacity_never_reached", 24, 4, 2, 8, 8, Choice::kRandom},
  };
}

struct Kept {
  int64_t token;
  int choice;
  friend auto operator<=>(const Kept&, const Kept&) = default;
};

class ExpertDispatch : public ::testing::TestWithParam<RouteCase> {
 protected:
  static constexpr int64_t kHidden = 6;

  ExpertDispatch()
      : stream_owner_(*kernels::Stream::Create(
            {}, GetParam().queue ? StreamMode::kQueue : StreamMode::kInline, "compute")) {
    const RouteCase& route = GetParam();
    MeshDegrees degrees;
    degrees.dp = degrees.ep = TestWorld().size();
    mesh_ = *Mesh::Create(TestWorld(), degrees, {});
    shape_ = {.tokens = route.tokens,
              .experts = route.experts_per_rank * group().size(),
              .top_k = route.top_k,
              .expert_ranks = group().size(),
              .group_tokens = route.group_tokens,
              .capacity = route.capacity};
    kernels::ArenaPlan plan;
    plan_.AddTo(plan, "plan", shape_, kernels::Lifetime::kActivation);
    staging_.AddTo(plan, "staging", shape_, kHidden, DType::kFloat64,
                   kernels::Lifetime::kPersistent);
    arena_ = *kernels::Arena::Allocate(plan, {});
    experts_ = MakeTensor(DType::kInt32, {route.tokens, route.top_k});
    for (int64_t t = 0; t < route.tokens; ++t) {
      for (int j = 0; j < route.top_k; ++j) {
        SetValue(experts_.view(), t * route.top_k + j, ChosenExpert(group().rank(), t, j));
      }
    }
  }

  const ProcessGroup& group() const { return mesh_->Group(Axis::kExpert); }
  StreamView stream() const { return stream_owner_.view(); }
  void Synchronize() { ASSERT_TRUE(stream().Synchronize().ok()); }
  void Plan() {
    ASSERT_TRUE(MakeRoutePlan(experts_.view(), shape_, plan_, group(), stream()).ok());
  }
  Tensor Received(DType dtype, int64_t columns) const {
    return MakeTensor(dtype, {shape_.received_rows(), columns});
  }

  // Distinct for the choices of a token.
  int ChosenExpert(int rank, int64_t token, int choice) const {
    const auto experts = static_cast<uint64_t>(shape_.experts);
    if (GetParam().choice == Choice::kOneExpert) {
      return static_cast<int>((1 + static_cast<uint64_t>(choice)) % experts);
    }
    const bool half = GetParam().choice == Choice::kFirstExperts;
    const uint64_t range = half ? experts / 2 : experts;
    const kernels::PhiloxKey key = kernels::MakePhiloxKey(static_cast<uint64_t>(rank), "choice");
    const uint64_t first = kernels::Philox(key, static_cast<uint64_t>(token)).v[0];
    return static_cast<int>((first + static_cast<uint64_t>(choice)) % range);
  }

  // Choices that a rank keeps for an expert, first come first served in each group of tokens.
  std::vector<Kept> KeptChoices(int rank, int expert) const {
    std::vector<Kept> kept;
    int64_t in_group = 0;
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      if (shape_.capacity > 0 && t % shape_.group_tokens == 0) in_group = 0;
      for (int j = 0; j < shape_.top_k; ++j) {
        if (ChosenExpert(rank, t, j) != expert) continue;
        if (shape_.capacity == 0 || in_group++ < shape_.capacity) kept.push_back({t, j});
      }
    }
    return kept;
  }
  std::set<Kept> AllKept(int rank) const {
    std::set<Kept> all;
    for (int e = 0; e < shape_.experts; ++e) {
      for (const Kept& kept : KeptChoices(rank, e)) all.insert(kept);
    }
    return all;
  }
  // What this rank must hold after a dispatch: (source rank, its choice), by expert, then source.
  std::vector<std::pair<int, Kept>> ExpectedRows(std::vector<int64_t>* offsets) const {
    std::vector<std::pair<int, Kept>> rows;
    *offsets = {0};
    for (int64_t local = 0; local < shape_.local_experts(); ++local) {
      const int64_t expert = group().rank() * shape_.local_experts() + local;
      for (int source = 0; source < group().size(); ++source) {
        for (const Kept& kept : KeptChoices(source, static_cast<int>(expert))) {
          rows.push_back({source, kept});
        }
      }
      offsets->push_back(static_cast<int64_t>(rows.size()));
    }
    return rows;
  }

  std::unique_ptr<Mesh> mesh_;
  RouteShape shape_;
  RoutePlan plan_;
  DispatchStaging staging_;
  kernels::Arena arena_;
  Tensor experts_;
  kernels::Stream stream_owner_;  // last: ends before what its work touches
};

Tensor TokensOf(int rank, const RouteShape& shape, int64_t columns, const std::string& name) {
  return RandomTensor(DType::kFloat64, {shape.tokens, columns}, name + std::to_string(rank));
}

TEST_P(ExpertDispatch, RowsArriveAtTheirExpertsInOrder) {
  const Tensor x = TokensOf(group().rank(), shape_, kHidden, "x");
  const Tensor rows = Received(DType::kFloat64, kHidden);
  Plan();
  ASSERT_TRUE(Dispatch(x.view(), plan_, staging_, rows.view(), group(), stream()).ok());
  Synchronize();

  std::vector<int64_t> offsets;
  const std::vector<std::pair<int, Kept>> expected = ExpectedRows(&offsets);
  EXPECT_EQ(Values(plan_.local_offsets), std::vector<double>(offsets.begin(), offsets.end()));
  EXPECT_EQ(GetValue(plan_.row_count, 0), static_cast<double>(expected.size()));
  ASSERT_LE(static_cast<int64_t>(expected.size()), shape_.received_rows());
  for (size_t r = 0; r < expected.size(); ++r) {
    const auto& [source, kept] = expected[r];
    const Tensor theirs = TokensOf(source, shape_, kHidden, "x");
    EXPECT_EQ(Values(rows.view().Slice(0, static_cast<int64_t>(r), static_cast<int64_t>(r) + 1)),
              Values(theirs.view().Slice(0, kept.token, kept.token + 1)))
        << "row " << r << " from rank " << source << " token " << kept.token;
  }
}

TEST_P(ExpertDispatch, CountsKeptAndDroppedChoices) {
  Plan();
  Synchronize();
  int64_t kept = 0;
  for (int e = 0; e < shape_.experts; ++e) {
    const auto count = static_cast<int64_t>(KeptChoices(group().rank(), e).size());
    EXPECT_EQ(GetValue(plan_.counts_E, e), static_cast<double>(count)) << "expert " << e;
    kept += count;
  }
  EXPECT_EQ(GetValue(plan_.dropped, 0), static_cast<double>(shape_.sent_rows() - kept));
  if (GetParam().name == "capacity" || GetParam().name == "capacity_one_expert") {
    EXPECT_LT(kept, shape_.sent_rows());
  } else {
    EXPECT_EQ(kept, shape_.sent_rows());
  }
}

// Integers, so that the sum over a token's choices is exact.
TEST_P(ExpertDispatch, CombineInvertsDispatch) {
  Tensor x = MakeTensor(DType::kFloat64, {shape_.tokens, kHidden});
  for (int64_t i = 0; i < x.view().num_elements(); ++i) {
    SetValue(x.view(), i, static_cast<double>(i * (group().rank() + 1) - 70));
  }
  const Tensor rows = Received(DType::kFloat64, kHidden);
  const Tensor out = RandomTensor(DType::kFloat64, {shape_.tokens, kHidden}, "garbage");
  const Tensor added = MakeTensor(DType::kFloat64, {shape_.tokens, kHidden});
  for (int64_t i = 0; i < added.view().num_elements(); ++i) SetValue(added.view(), i, 1000.0);
  Plan();
  ASSERT_TRUE(Dispatch(x.view(), plan_, staging_, rows.view(), group(), stream()).ok());
  ASSERT_TRUE(Combine(rows.view(), plan_, staging_, out.view(), false, group(), stream()).ok());
  ASSERT_TRUE(Combine(rows.view(), plan_, staging_, added.view(), true, group(), stream()).ok());
  Synchronize();
  std::vector<double> wanted(static_cast<size_t>(out.view().num_elements()));
  for (const Kept& kept : AllKept(group().rank())) {
    for (int64_t d = 0; d < kHidden; ++d) {
      const int64_t i = kept.token * kHidden + d;
      wanted[static_cast<size_t>(i)] += GetValue(x.view(), i);
    }
  }
  EXPECT_EQ(Values(out.view()), wanted);
  for (double& value : wanted) value += 1000;
  EXPECT_EQ(Values(added.view()), wanted);
}

// <dispatch(x), y> = <x, combine(y)> over all ranks: each is the other's backward.
TEST_P(ExpertDispatch, CombineIsTheAdjointOfDispatch) {
  const Tensor x = TokensOf(group().rank(), shape_, kHidden, "x");
  const Tensor rows = Received(DType::kFloat64, kHidden);
  const Tensor y =
      RandomTensor(DType::kFloat64, rows.view().shape, "y" + std::to_string(group().rank()));
  const Tensor combined = MakeTensor(DType::kFloat64, x.view().shape);
  Plan();
  ASSERT_TRUE(Dispatch(x.view(), plan_, staging_, rows.view(), group(), stream()).ok());
  ASSERT_TRUE(Combine(y.view(), plan_, staging_, combined.view(), false, group(), stream()).ok());
  Synchronize();
  const auto product = [](const std::vector<double>& a, const std::vector<double>& b, int64_t n) {
    return std::inner_product(a.begin(), a.begin() + n, b.begin(), 0.0);
  };
  const auto used = static_cast<int64_t>(GetValue(plan_.row_count, 0)) * kHidden;
  const Tensor sums =
      TensorOf(DType::kFloat64, {2},
               {product(Values(rows.view()), Values(y.view()), used),
                product(Values(x.view()), Values(combined.view()), x.view().num_elements())});
  ASSERT_TRUE(AllReduce(sums.view(), ReduceOp::kSum, mesh_->Group(Axis::kWorld), stream()).ok());
  Synchronize();
  const double left = GetValue(sums.view(), 0), right = GetValue(sums.view(), 1);
  EXPECT_NE(left, 0.0);
  EXPECT_NEAR(left, right, 1e-10 * (1 + std::fabs(left)));
}

TEST_P(ExpertDispatch, WeightsTravelWithTheirRowsAndBack) {
  const Tensor weights = TokensOf(group().rank(), shape_, shape_.top_k, "weights");
  const Tensor by_row = MakeTensor(DType::kFloat64, {shape_.received_rows()});
  const Tensor returned = RandomTensor(DType::kFloat64, weights.view().shape, "garbage");
  Plan();
  ASSERT_TRUE(
      DispatchWeights(weights.view(), plan_, staging_, by_row.view(), group(), stream()).ok());
  ASSERT_TRUE(
      CombineWeights(by_row.view(), plan_, staging_, returned.view(), group(), stream()).ok());
  Synchronize();

  std::vector<int64_t> offsets;
  const std::vector<std::pair<int, Kept>> expected = ExpectedRows(&offsets);
  for (size_t r = 0; r < expected.size(); ++r) {
    const auto& [source, kept] = expected[r];
    const Tensor theirs = TokensOf(source, shape_, shape_.top_k, "weights");
    EXPECT_EQ(GetValue(by_row.view(), static_cast<int64_t>(r)),
              GetValue(theirs.view(), kept.token * shape_.top_k + kept.choice));
  }
  const std::set<Kept> all = AllKept(group().rank());
  for (int64_t t = 0; t < shape_.tokens; ++t) {
    for (int j = 0; j < shape_.top_k; ++j) {
      const int64_t i = t * shape_.top_k + j;
      const double wanted = all.count({t, j}) > 0 ? GetValue(weights.view(), i) : 0.0;
      EXPECT_EQ(GetValue(returned.view(), i), wanted) << "token " << t << " choice " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ExpertDispatch, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

TEST(RouteShape, BoundsTheReceivedRows) {
  RouteShape shape{.tokens = 10, .experts = 8, .top_k = 4, .expert_ranks = 4};
  EXPECT_EQ(shape.sent_rows(), 40);
  EXPECT_EQ(shape.received_rows(), 4 * 10 * 2);  // at most both local experts, for each token
  shape.expert_ranks = 1;
  EXPECT_EQ(shape.received_rows(), 40);
  shape.capacity = 1;
  shape.group_tokens = 5;
  EXPECT_EQ(shape.received_rows(), 2 * 8);
  shape.tokens = 7;  // of three sequences, say one of 5 and two parts of one token
  shape.cut_groups = 3;
  EXPECT_EQ(shape.received_rows(), 3 * 8);
}

}  // namespace
}  // namespace muster::parallel
