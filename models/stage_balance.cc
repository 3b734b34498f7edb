#include "models/stage_balance.h"

#include <algorithm>
#include <numeric>

#include "kernels/base/error.h"
#include "models/cost.h"

namespace muster::models {
namespace {

// For each layer, how few stages, none above `limit`, can hold it and all that follow, with the
// output in the last of them. [0] is 0 if none can.
std::vector<int> FewestStages(const std::vector<double>& layer_costs, double output_cost,
                              double limit) {
  std::vector<int> fewest(layer_costs.size());
  double stage = output_cost;
  int stages = 1;
  for (size_t i = layer_costs.size(); i-- > 0;) {
    const bool alone = i + 1 == layer_costs.size();
    if (!alone && stage + layer_costs[i] > limit) {
      stage = 0;
      ++stages;
    }
    stage += layer_costs[i];
    if (stage > limit) return std::vector<int>(layer_costs.size(), 0);
    fewest[i] = stages;
  }
  return fewest;
}

// What the costliest stage costs at best, to within the precision of the sums.
double LeastLimit(const std::vector<double>& layer_costs, double output_cost, int num_stages) {
  double low = 0;
  double high = std::accumulate(layer_costs.begin(), layer_costs.end(), output_cost);
  for (int halving = 0; halving < 60; ++halving) {
    const double middle = (low + high) / 2;
    const int stages = FewestStages(layer_costs, output_cost, middle).front();
    (stages >= 1 && stages <= num_stages ? high : low) = middle;
  }
  return high * (1 + 1e-9);
}

}  // namespace

std::vector<int> BalanceLayers(const std::vector<double>& layer_costs, double output_cost,
                               int num_stages) {
  const int num_layers = static_cast<int>(layer_costs.size());
  MUSTER_CHECK(num_stages >= 1 && num_layers >= num_stages)
      << num_layers << " layers for " << num_stages << " stages";
  const double limit = LeastLimit(layer_costs, output_cost, num_stages);
  const std::vector<int> fewest = FewestStages(layer_costs, output_cost, limit);
  double left = std::accumulate(layer_costs.begin(), layer_costs.end(), output_cost);
  const double least_last = output_cost + layer_costs.back();
  std::vector<int> layers;
  int next = 0;                                           // layer
  for (int after = num_stages - 1; after > 0; --after) {  // stages that follow
    // Not above what the stages before the last share if that one takes as little as it can.
    const double mean = std::min(left / (after + 1), (left - least_last) / after);
    double stage = 0;
    int taken = 0;
    const auto takes_next = [&] {
      if (num_layers - next <= after) return false;  // each that follows wants one
      if (taken == 0 || fewest[static_cast<size_t>(next)] > after) return true;
      const double cost = layer_costs[static_cast<size_t>(next)];
      return stage < mean * (1 - 1e-9) && stage + cost <= limit;
    };
    for (; takes_next(); ++taken) stage += layer_costs[static_cast<size_t>(next++)];
    layers.push_back(taken);
    left -= stage;
  }
  layers.push_back(num_layers - next);
  return layers;
}

std::vector<int> LayersOfStages(const ModelConfig& config, int64_t sequence_length,
                                int num_stages) {
  const PartCosts costs = CostsOfParts(config, sequence_length);
  return BalanceLayers(costs.layers, costs.output, num_stages);
}

}  // namespace muster::models
