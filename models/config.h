#pragma once
// Rules and derived values of a ModelConfig.
#include <string>
#include <vector>

#include "models/model.pb.h"
#include "parallel/mesh/mesh.h"

namespace muster::models {

// Fills in defaults that follow from other fields (kv_heads, head_size, expert_ffn_hidden).
void FillDefaults(ModelConfig* config);

// Appends a sentence for each broken rule: field, value, and the nearest legal value. Fields are
// named as in the config, under "model.".
void CheckModel(const ModelConfig& config, std::vector<std::string>* problems);

// Rules between model and mesh (experts divisible by ep, ...).
void CheckModelOnMesh(const ModelConfig& config, const parallel::MeshDegrees& mesh,
                      std::vector<std::string>* problems);

bool IsMoeLayer(const ModelConfig& config, int layer);
int NumMoeLayers(const ModelConfig& config);

}  // namespace muster::models
