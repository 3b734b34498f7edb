#pragma once
// Which layers of a model a pipeline's stages hold: the slowest stage sets the pace of all.
#include <cstdint>
#include <vector>

#include "models/model.pb.h"

namespace muster::models {

// Layers of each stage, at least one, such that the costliest stage costs as little as it can.
// Among such divisions one that is about even, with more layers in earlier stages. `layer_costs`,
// in any unit, by layer; `output_cost` comes on top of the last stage. CHECKs that there are enough
// layers.
std::vector<int> BalanceLayers(const std::vector<double>& layer_costs, double output_cost,
                               int num_stages);

// The same of a model, by training FLOPs at this sequence length. The embedding costs none.
std::vector<int> LayersOfStages(const ModelConfig& config, int64_t sequence_length, int num_stages);

}  // namespace muster::models
