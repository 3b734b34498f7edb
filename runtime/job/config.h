#pragma once
// From a config file and overrides to a job that is legal, or to everything that is wrong with it
// at once. Pure but for reading files; no GPU, no other rank.
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/mesh/mesh.h"
#include "runtime/job/job.pb.h"

namespace muster::runtime {

// One thing that is wrong: where ("configs/jobs/x.textproto:12", "--set mesh.tp", or a field), what
// was wanted, what was found, and the nearest that would work.
struct ConfigProblem {
  std::string where;
  std::string message;
};

// A job whose every rule holds, for a world of `mesh.world_size()` ranks. All defaults are filled.
struct ResolvedJob {
  Job job;
  parallel::MeshDegrees mesh;
  int64_t sequence_length = 0;
  int64_t microbatch_sequences = 0;  // of one microbatch on one rank
  uint64_t hash = 0;                 // of the resolved text: ranks compare it at start
  std::string text;                  // textproto, kept with the run
};

// Reads the file (and model_file), applies "key.path=value" overrides, fills defaults, validates.
// On failure `problems` holds every problem and the result is empty.
bool LoadJob(const std::string& path, const std::vector<std::string>& overrides, int world_size,
             ResolvedJob* job, std::vector<ConfigProblem>* problems);

// Reads a resolved config kept with a run: the world size follows from its mesh.
bool LoadResolvedJob(const std::string& run_directory, ResolvedJob* job,
                     std::vector<ConfigProblem>* problems);

// "3 problems in configs/x.textproto:\n  1. where: message ..."
std::string Describe(const std::vector<ConfigProblem>& problems, const std::string& path);

}  // namespace muster::runtime
