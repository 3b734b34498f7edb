#pragma once
// What every command that needs a job has in common: the arguments by which it is named, CONFIG and
// --set, where it begins, and the world that its config asks for.
#include <string>
#include <vector>

#include "parallel/comm/rendezvous.h"
#include "runtime/job/job.pb.h"

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

// Declares --resume. `resume` must outlive the parse.
void AddResumeOption(CLI::App& app, std::string* resume);

// Its deadline is that of the start.
parallel::WorldOptions WorldOptionsOf(const runtime::Communication& communication);

}  // namespace muster::launch
