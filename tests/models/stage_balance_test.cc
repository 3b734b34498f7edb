#include "models/stage_balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "models/cost.h"

namespace muster::models {
namespace {

using Layers = std::vector<int>;

double Costliest(const std::vector<double>& costs, double output, const Layers& layers) {
  double worst = 0;
  size_t next = 0;
  for (size_t stage = 0; stage < layers.size(); ++stage) {
    double cost = stage + 1 == layers.size() ? output : 0;
    for (int i = 0; i < layers[stage]; ++i) cost += costs[next++];
    worst = std::max(worst, cost);
  }
  return worst;
}

// Of all divisions, tried one by one.
double BestCostliest(const std::vector<double>& costs, double output, int num_stages,
                     Layers chosen = {}) {
  const int left =
      static_cast<int>(costs.size()) - std::accumulate(chosen.begin(), chosen.end(), 0);
  const int stages_left = num_stages - static_cast<int>(chosen.size());
  if (stages_left == 1) {
    chosen.push_back(left);
    return Costliest(costs, output, chosen);
  }
  double best = 1e300;
  for (int take = 1; left - take >= stages_left - 1; ++take) {
    chosen.push_back(take);
    best = std::min(best, BestCostliest(costs, output, num_stages, chosen));
    chosen.pop_back();
  }
  return best;
}

TEST(BalanceLayers, DividesEqualLayersEvenlyTheEarlierStagesWithMore) {
  const auto divide = [](int layers, int stages) {
    return BalanceLayers(std::vector<double>(static_cast<size_t>(layers), 1.0), 0, stages);
  };
  EXPECT_EQ(divide(8, 2), (Layers{4, 4}));
  EXPECT_EQ(divide(8, 3), (Layers{3, 3, 2}));
  EXPECT_EQ(divide(9, 4), (Layers{3, 2, 2, 2}));
  EXPECT_EQ(divide(4, 4), (Layers{1, 1, 1, 1}));
  EXPECT_EQ(divide(5, 1), (Layers{5}));
}

TEST(BalanceLayers, TakesLayersFromTheStageWithTheOutput) {
  const std::vector<double> layers(16, 1.0);
  EXPECT_EQ(BalanceLayers(layers, 4.3, 2), (Layers{10, 6}));
  EXPECT_EQ(BalanceLayers(layers, 0.4, 2), (Layers{8, 8}));
  EXPECT_EQ(BalanceLayers(layers, 100, 4), (Layers{5, 5, 5, 1}));  // never none
}

TEST(BalanceLayers, FindsTheLeastCostliestStage) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const int num_layers = 1 + static_cast<int>(random() % 10);
    const int num_stages = 1 + static_cast<int>(random() % static_cast<uint64_t>(num_layers));
    std::vector<double> costs;
    for (int i = 0; i < num_layers; ++i) costs.push_back(1.0 + static_cast<double>(random() % 4));
    const double output = static_cast<double>(random() % 12);
    const Layers layers = BalanceLayers(costs, output, num_stages);
    ASSERT_EQ(layers.size(), static_cast<size_t>(num_stages));
    ASSERT_EQ(std::accumulate(layers.begin(), layers.end(), 0), num_layers);
    ASSERT_GE(*std::min_element(layers.begin(), layers.end()), 1);
    EXPECT_DOUBLE_EQ(Costliest(costs, output, layers), BestCostliest(costs, output, num_stages))
        << "round " << round;
  }
}

TEST(LayersOfStages, CountsTheOutputOfALargeVocabulary) {
  ModelConfig config;
  config.set_vocab_size(128256);
  config.set_hidden(2048);
  config.set_layers(16);
  config.set_heads(32);
  config.set_kv_heads(8);
  config.set_head_size(64);
  config.set_ffn_hidden(8192);
  config.set_activation(SWIGLU);
  EXPECT_EQ(LayersOfStages(config, 4096, 2), (Layers{10, 6}));
}

TEST(CostsOfParts, SumToTheModels) {
  ModelConfig config;
  config.set_vocab_size(1000);
  config.set_hidden(64);
  config.set_layers(3);
  config.set_heads(4);
  config.set_kv_heads(2);
  config.set_head_size(16);
  config.set_ffn_hidden(256);
  const PartCosts parts = CostsOfParts(config, 128);
  ASSERT_EQ(parts.layers.size(), 3u);
  EXPECT_DOUBLE_EQ(std::accumulate(parts.layers.begin(), parts.layers.end(), parts.output),
                   CostOf(config, 128).flops_per_token());
}

}  // namespace
}  // namespace muster::models
