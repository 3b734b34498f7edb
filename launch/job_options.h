#pragma once
// The arguments by which every command that needs a job names it: CONFIG and --set.
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace muster::launch {

struct JobOptions {
  std::string config;                  // path of a job's textproto
  std::vector<std::string> overrides;  // "mesh.tp=2"
};

// Declares CONFIG (required) and --set (repeatable). `options` must outlive the parse.
void AddJobOptions(CLI::App& app, JobOptions* options);

}  // namespace muster::launch
