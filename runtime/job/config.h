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
// A world size of 0 means the smallest world on which the mesh fits. Strings of overrides need no
// quotes, lists are split at commas; "data.synthetic=" removes a block. model_file is relative to
// the config file, or, in an override, to the working directory; data files always to the latter.
// On failure `problems` holds every problem and the result is empty.
bool LoadJob(const std::string& path, const std::vector<std::string>& overrides, int world_size,
             ResolvedJob* job, std::vector<ConfigProblem>* problems);

// Of the file, or of none if `path` is empty, and of overrides, which may name communication's
// fields only: what they say of how ranks of such a device talk.
bool LoadCommunication(const std::string& path, const std::vector<std::string>& overrides,
                       DeviceKind device, Communication* communication,
                       std::vector<ConfigProblem>* problems);

// Reads <run_directory>/config.textproto, the resolved config kept with a run: the world size
// follows from its mesh. Data files may be gone by now, so they are not looked for.
bool LoadResolvedJob(const std::string& run_directory, ResolvedJob* job,
                     std::vector<ConfigProblem>* problems);

// The same file as a job of which no rule is checked: another build, or host, may have made it.
bool ReadKeptJob(const std::string& run_directory, Job* job, std::vector<ConfigProblem>* problems);

// "3 problems in configs/x.textproto:\n  1. where: message ..."
std::string Describe(const std::vector<ConfigProblem>& problems, const std::string& path);

}  // namespace muster::runtime
