#pragma once
// The rows of the parity matrix: models, and the layouts on which each is trained.
#include <string>
#include <vector>

namespace muster::runtime {

// A job on one rank. Overrides are as after --set, separated by spaces.
struct ParityModel {
  const char* name;
  const char* config;  // below configs/jobs
  std::string overrides;
};

// The same job on `ranks` ranks.
struct Layout {
  const char* model;
  int ranks;
  const char* overrides;
};

const ParityModel& ParityModelNamed(const std::string& name);
const std::vector<Layout>& AllLayouts();

}  // namespace muster::runtime
