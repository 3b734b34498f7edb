#include "kernels/ops/topk_route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/support/kernels/finite_differences.h"
#include "tests/support/kernels/op_cases.h"
#include "tests/support/kernels/tolerance.h"

namespace muster::kernels {
namespace {

struct Router {
  Router(DType dtype, int64_t tokens, int64_t num_experts, RouterOptions options)
      : logits(RandomTensor(dtype, {tokens, num_experts}, "logits", 1.5)),
        bias(RandomTensor(dtype, {num_experts}, "bias", 0.1)),
        scores(MakeTensor(dtype, {tokens, num_experts})),
        experts(MakeTensor(DType::kInt32, {tokens, options.top_k})),
        weights(MakeTensor(dtype, {tokens, options.top_k})),
        d_weights(RandomTensor(dtype, {tokens, options.top_k}, "d_weights")),
        d_logits(MakeTensor(dtype, {tokens, num_experts})),
        losses(MakeTensor(DType::kFloat64, {2})),
        options(options) {}

  void Forward() {
    cpu::TopkRouteForward({.logits = logits.view(),
                           .bias = bias.view(),
                           .scores = scores.view(),
                           .experts = experts.view(),
                           .weights = weights.view(),
                           .options = options});
  }
  void Backward(int64_t group_tokens, double loss_scale, TensorView load = {}) {
    cpu::TopkRouteBackward({.logits = logits.view(),
                            .scores = scores.view(),
                            .experts = experts.view(),
                            .d_weights = d_weights.view(),
                            .load = load,
                            .d_logits = d_logits.view(),
                            .losses = losses.view(),
                            .group_tokens = group_tokens,
                            .loss_scale = loss_scale,
                            .options = options});
  }
  std::vector<double> Row(const Tensor& tensor, int64_t t) const {
    return Values(tensor.view().Slice(0, t, t + 1));
  }

  Tensor logits, bias, scores, experts, weights, d_weights, d_logits, losses;
  RouterOptions options;
};

std::vector<double> ReferenceScores(RouterScore score, const std::vector<double>& logits) {
  std::vector<double> scores;
  double sum = 0;
  for (double l : logits) {
    scores.push_back(score == RouterScore::kSoftmax ? std::exp(l) : 1 / (1 + std::exp(-l)));
    sum += scores.back();
  }
  for (double& s : scores) s /= score == RouterScore::kSoftmax ? sum : 1;
  return scores;
}

// The k best by sorting: groups first, then experts of the chosen groups.
std::vector<double> ReferenceChoice(const RouterOptions& options, std::vector<double> values) {
  const size_t size = values.size() / static_cast<size_t>(options.groups);
  std::vector<std::pair<double, size_t>> groups;
  for (size_t g = 0; g < static_cast<size_t>(options.groups); ++g) {
    std::vector<double> sorted(values.begin() + static_cast<long>(g * size),
                               values.begin() + static_cast<long>((g + 1) * size));
    std::sort(sorted.rbegin(), sorted.rend());
    groups.push_back({-(sorted[0] + (size > 1 ? sorted[1] : 0)), g});
  }
  std::sort(groups.begin(), groups.end());
  if (options.groups > 1) groups.resize(static_cast<size_t>(options.group_top_k));
  std::vector<std::pair<double, size_t>> order;
  for (const auto& [value, g] : groups) {
    for (size_t e = g * size; e < (g + 1) * size; ++e) order.push_back({-values[e], e});
  }
  std::sort(order.begin(), order.end());
  std::vector<double> chosen;
  for (int j = 0; j < options.top_k; ++j) {
    chosen.push_back(static_cast<double>(order[static_cast<size_t>(j)].second));
  }
  return chosen;
}

// Every combination of score, grouping and normalisation.
std::vector<RouterOptions> AllOptions() {
  std::vector<RouterOptions> all;
  for (RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    for (int groups : {1, 4, 12}) {
      for (bool normalise : {false, true}) {
        all.push_back({.score = score,
                       .top_k = 3,
                       .groups = groups,
                       .group_top_k = groups == 4    ? 2
                                      : groups == 12 ? 5
                                                     : 1,
                       .normalise = normalise,
                       .scale = 2.5f});
      }
    }
  }
  return all;
}

std::string Describe(const RouterOptions& options) {
  return std::string(options.score == RouterScore::kSoftmax ? "softmax" : "sigmoid") + " groups " +
         std::to_string(options.groups) + (options.normalise ? " normalised" : "");
}

class TopkRoute : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(, TopkRoute, AccumulatorDTypes(), DTypeName);

TEST_P(TopkRoute, ForwardMatchesReference) {
  for (const RouterOptions& options : AllOptions()) {
    SCOPED_TRACE(Describe(options));
    Router router(GetParam(), 40, 12, options);
    router.Forward();
    const std::vector<double> bias = Values(router.bias.view());
    std::vector<double> all_scores, all_weights;
    for (int64_t t = 0; t < 40; ++t) {
      const std::vector<double> scores =
          ReferenceScores(options.score, router.Row(router.logits, t));
      std::vector<double> values = scores;
      for (size_t e = 0; e < values.size(); ++e) values[e] += bias[e];
      const std::vector<double> chosen = ReferenceChoice(options, values);
      EXPECT_EQ(router.Row(router.experts, t), chosen) << "token " << t;
      double sum = 0;
      for (double e : chosen) sum += scores[static_cast<size_t>(e)];
      for (double e : chosen) {
        const double weight = scores[static_cast<size_t>(e)] * double{options.scale};
        all_weights.push_back(options.normalise ? weight / sum : weight);
      }
      all_scores.insert(all_scores.end(), scores.begin(), scores.end());
    }
    EXPECT_TRUE(IsClose(router.scores.view(), all_scores));
    EXPECT_TRUE(IsClose(router.weights.view(), all_weights));
  }
}

TEST_P(TopkRoute, TiesGoToTheLowerExpert) {
  Router router(GetParam(), 1, 6, {.top_k = 3});
  SetValues(router.bias.view(), {0, 0, 0, 0, 0, 0});
  SetValues(router.logits.view(), {1, 2, 1, 2, 1, 1});
  router.Forward();
  EXPECT_EQ(Values(router.experts.view()), (std::vector<double>{1, 3, 0}));
  router.options.groups = 3;
  router.options.group_top_k = 2;
  SetValues(router.logits.view(), {1, 1, 1, 1, 1, 1});
  router.Forward();
  EXPECT_EQ(Values(router.experts.view()), (std::vector<double>{0, 1, 2}));
}

TEST_P(TopkRoute, BiasMovesTheChoiceButNotTheWeights) {
  Router router(GetParam(), 1, 4, {.score = RouterScore::kSigmoid, .top_k = 1});
  SetValues(router.logits.view(), {3, 0, 0, 0});
  SetValues(router.bias.view(), {-10, 0, 0.5, 0});
  router.Forward();
  EXPECT_EQ(GetValue(router.experts.view(), 0), 2);
  EXPECT_EQ(GetValue(router.weights.view(), 0), 0.5);
}

TEST_P(TopkRoute, NanLogitsStillChooseDistinctExperts) {
  for (int groups : {1, 4}) {
    Router router(GetParam(), 1, 8,
                  {.top_k = 3, .groups = groups, .group_top_k = groups == 1 ? 1 : 2});
    SetValue(router.logits.view(), 2, std::nan(""));
    router.Forward();
    const std::vector<double> chosen = Values(router.experts.view());
    EXPECT_EQ(std::set<double>(chosen.begin(), chosen.end()).size(), 3u);
    for (double e : chosen) EXPECT_TRUE(e >= 0 && e < 8) << e;
  }
}

TEST_P(TopkRoute, ScoresThatUnderflowGiveZeroWeights) {
  Router router(GetParam(), 1, 4, {.score = RouterScore::kSigmoid, .top_k = 2, .normalise = true});
  SetValues(router.logits.view(), {-900, -900, -900, -900});
  router.Forward();
  router.Backward(1, 1.0);
  EXPECT_EQ(Values(router.weights.view()), (std::vector<double>{0, 0}));
  for (double gradient : Values(router.d_logits.view())) EXPECT_TRUE(std::isfinite(gradient));
}

TEST_P(TopkRoute, AuxiliaryLossOfABalancedGroupIsItsCoefficient) {
  // Token t prefers experts t and t + 1 (mod 4): each expert is chosen twice, and the mean
  // probabilities are equal.
  for (RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    Router router(GetParam(), 4, 4, {.score = score, .top_k = 2, .aux_coefficient = 0.5f});
    FillRandom(router.bias.view(), "none", 0.0);
    for (int64_t t = 0; t < 4; ++t) {
      for (int64_t e = 0; e < 4; ++e) {
        SetValue(router.logits.view(), 4 * t + e, e == t ? 2 : e == (t + 1) % 4 ? 1 : 0);
      }
    }
    router.Forward();
    router.Backward(4, 1.0 / 4);
    EXPECT_NEAR(GetValue(router.losses.view(), 0), 0.5, 1e-6);
    EXPECT_EQ(GetValue(router.losses.view(), 1), 0);
  }
}

TEST_P(TopkRoute, LossesMatchReferenceAndAccumulate) {
  for (RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
    Router router(GetParam(), 6, 8,
                  {.score = score, .top_k = 2, .aux_coefficient = 0.3f, .z_coefficient = 0.2f});
    router.Forward();
    double auxiliary = 1, z = 1;  // what was there before
    for (int64_t group = 0; group < 2; ++group) {
      std::vector<double> counts(8), mean_p(8);
      for (int64_t t = 3 * group; t < 3 * group + 3; ++t) {
        const std::vector<double> logits = router.Row(router.logits, t);
        for (double e : router.Row(router.experts, t)) counts[static_cast<size_t>(e)] += 1;
        const std::vector<double> s = ReferenceScores(score, logits);
        double score_sum = 0, exp_sum = 0;
        for (size_t e = 0; e < 8; ++e) score_sum += s[e], exp_sum += std::exp(logits[e]);
        for (size_t e = 0; e < 8; ++e) mean_p[e] += s[e] / score_sum / 3;
        z += double{0.2f} * std::pow(std::log(exp_sum), 2) / 60;
      }
      for (size_t e = 0; e < 8; ++e) {
        auxiliary += double{0.3f} * 8 / (2.0 * 3) * counts[e] * mean_p[e] * 3 / 60;
      }
    }
    SetValues(router.losses.view(), {1, 1});
    router.Backward(3, 1.0 / 60);
    EXPECT_TRUE(IsClose(router.losses.view(), {auxiliary, z}, ToleranceOf(GetParam())));
  }
}

TEST_P(TopkRoute, GradientDoesNotDependOnHowGroupsAreSplitOverCalls) {
  const RouterOptions options{.top_k = 2, .aux_coefficient = 0.3f, .z_coefficient = 0.2f};
  Router whole(GetParam(), 6, 8, options);
  whole.Forward();
  whole.Backward(3, 1.0 / 6);
  double auxiliary = 0;
  for (int64_t group = 0; group < 2; ++group) {
    Router part(GetParam(), 3, 8, options);
    for (Tensor Router::*tensor : {&Router::logits, &Router::d_weights}) {
      SetValues((part.*tensor).view(),
                Values((whole.*tensor).view().Slice(0, 3 * group, 3 * group + 3)));
    }
    part.Forward();
    part.Backward(3, 1.0 / 6);
    EXPECT_EQ(Values(part.d_logits.view()),
              Values(whole.d_logits.view().Slice(0, 3 * group, 3 * group + 3)));
    auxiliary += GetValue(part.losses.view(), 0);
  }
  EXPECT_NEAR(auxiliary, GetValue(whole.losses.view(), 0), 1e-12);
}

// The loss whose gradient the backward gives, in plain fp64, with the choice and the counts held.
double HeldLoss(const Router& router, int64_t group_tokens, double loss_scale,
                const std::vector<double>& load) {
  const RouterOptions& options = router.options;
  const int64_t num_tokens = router.logits.view().shape[0];
  const auto num_experts = static_cast<size_t>(router.logits.view().shape[1]);
  double loss = 0;
  for (int64_t t = 0; t < num_tokens; ++t) {
    const std::vector<double> logits = router.Row(router.logits, t);
    const std::vector<double> s = ReferenceScores(options.score, logits);
    const std::vector<double> chosen = router.Row(router.experts, t);
    const std::vector<double> d_weights = router.Row(router.d_weights, t);
    double chosen_sum = 0, score_sum = 0, exp_sum = 0;
    for (double e : chosen) chosen_sum += s[static_cast<size_t>(e)];
    for (size_t j = 0; j < chosen.size(); ++j) {
      const double score = s[static_cast<size_t>(chosen[j])];
      loss += d_weights[j] * double{options.scale} * score / (options.normalise ? chosen_sum : 1);
    }
    for (size_t e = 0; e < num_experts; ++e) score_sum += s[e], exp_sum += std::exp(logits[e]);
    std::vector<double> fractions = load;
    if (load.empty()) {
      fractions.assign(num_experts, 0);
      const int64_t begin = t / group_tokens * group_tokens;
      for (int64_t u = begin; u < begin + group_tokens; ++u) {
        for (double e : router.Row(router.experts, u)) {
          fractions[static_cast<size_t>(e)] += 1.0 / static_cast<double>(group_tokens);
        }
      }
    }
    for (size_t e = 0; e < num_experts; ++e) {
      loss += loss_scale * double{options.aux_coefficient} * double(num_experts) / options.top_k *
              fractions[e] * s[e] / score_sum;
    }
    loss += loss_scale * double{options.z_coefficient} * std::pow(std::log(exp_sum), 2);
  }
  return loss;
}

TEST(TopkRouteGradient, MatchesFiniteDifferences) {
  struct Balance {
    float aux, z;
    bool batch_load;
  };
  for (RouterOptions options : AllOptions()) {
    for (const Balance& balance : {Balance{0, 0, false}, Balance{3, 0, false}, Balance{3, 0, true},
                                   Balance{0, 2, false}, Balance{3, 2, true}}) {
      options.aux_coefficient = balance.aux;
      options.z_coefficient = balance.z;
      SCOPED_TRACE(Describe(options) + " aux " + std::to_string(balance.aux) + " z " +
                   std::to_string(balance.z) + (balance.batch_load ? " batch" : ""));
      Router router(DType::kFloat64, 6, 12, options);
      std::vector<double> load;
      Tensor load_tensor;
      if (balance.batch_load) {
        load = {0.5, 0, 0.25, 0.25, 1, 0, 0, 0.5, 0.125, 0.125, 0.25, 0};  // sums to k = 3
        load_tensor = TensorOf(DType::kFloat64, {12}, load);
      }
      router.Forward();
      router.Backward(3, 1.0 / 24, load_tensor.view());
      const auto loss = [&] { return HeldLoss(router, 3, 1.0 / 24, load); };
      EXPECT_TRUE(GradientMatches(loss, router.logits.view(), router.d_logits.view()));
    }
  }
}

// Tokens of two groups lie on two ranks, half of each group on either.
TEST(GroupLoad, PartsOfGroupsSumToTheLossOfWholeGroups) {
  const RouterOptions options{.top_k = 3, .aux_coefficient = 2};
  Router whole(DType::kFloat64, 8, 12, options), first(DType::kFloat64, 4, 12, options),
      second(DType::kFloat64, 4, 12, options);
  whole.Forward();
  whole.Backward(4, 1.0 / 8);
  const Tensor load = MakeTensor(DType::kFloat64, {2, 12}),
               part = MakeTensor(DType::kFloat64, {2, 12});
  std::vector<double> sum(24);
  int64_t at = 0;
  for (Router* rank : {&first, &second}) {
    for (const int64_t group : {0, 1}) {
      for (const auto& [from, to] : {std::pair(&whole.logits, &rank->logits),
                                     std::pair(&whole.d_weights, &rank->d_weights)}) {
        const int64_t begin = group * 4 + at;
        SetValues(to->view().Slice(0, group * 2, group * 2 + 2),
                  Values(from->view().Slice(0, begin, begin + 2)));
      }
    }
    at += 2;
    rank->Forward();
    cpu::GroupLoad(
        {.experts = rank->experts.view(), .out = part.view(), .group_tokens = 2, .scale = 1.0 / 4});
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += Values(part.view())[i];
  }
  SetValues(load.view(), sum);
  at = 0;
  double loss = 0;
  for (Router* rank : {&first, &second}) {
    rank->Backward(2, 1.0 / 8, load.view());
    loss += GetValue(rank->losses.view(), 0);
    for (const int64_t group : {0, 1}) {
      const int64_t begin = group * 4 + at;
      EXPECT_TRUE(IsClose(rank->d_logits.view().Slice(0, group * 2, group * 2 + 2),
                          Values(whole.d_logits.view().Slice(0, begin, begin + 2))));
    }
    at += 2;
  }
  EXPECT_NEAR(loss, GetValue(whole.losses.view(), 0), 1e-12);
}

TEST(TopkRouteDeathTest, RefusesMoreChoicesThanEligibleExperts) {
  Router router(DType::kFloat32, 1, 8, {.top_k = 3, .groups = 4, .group_top_k = 1});
  EXPECT_DEATH(router.Forward(), "top_k is 3, 2 experts are eligible");
}

}  // namespace
}  // namespace muster::kernels
