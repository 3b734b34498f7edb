#pragma once
// What the launcher and the scheduler tell a process through its environment, read in one place and
// before MPI starts: where to log, how wide the job is, which attempt of the scheduler this is.
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/goodput/scheduler_job.h"

namespace muster::launch {

using Environment = std::map<std::string, std::string>;

// This process' environment.
Environment CurrentEnvironment();

struct RankEnv {
  enum class Launcher { kAlone, kOpenMpi, kPmi, kSlurm };  // kPmi: Hydra (MPICH, Intel MPI)
  Launcher launcher = Launcher::kAlone;
  int rank = 0, size = 1;              // of the world
  int local_rank = 0, local_size = 1;  // among the ranks of this host
  runtime::SchedulerJob scheduler;
};
const char* Name(RankEnv::Launcher launcher);

// mpirun's variables win over Slurm's: inside an allocation both are there, and it is mpirun that
// numbered the ranks. A process in a batch script, outside of any job step, is alone. Slurm says
// when a job started (from 23.02 on), but not when it was submitted: whoever submits may hand that
// down as $MUSTER_SUBMIT_TIME. Errors: a value that is no number, or a rank that is not below its
// size; names the variable and its value.
absl::StatusOr<RankEnv> ReadRankEnv(const Environment& environment);

}  // namespace muster::launch
