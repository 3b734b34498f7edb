#pragma once
// How a job's ranks are started: an interface, of which mpirun is one kind. Whoever starts them is
// one child process of the supervisor, leads a process group, ends when all ranks have ended, and
// passes SIGUSR1 on to them.
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muster::launch {

struct StartPlan {
  std::vector<std::string> command;  // of each rank
  int num_ranks = 1;
  std::vector<std::string> host_of_rank;  // empty: all on this host
  // For every rank. Values may be secret: they go by the environment, never onto a command line.
  std::map<std::string, std::string> environment;
};

class HostStart {
 public:
  virtual ~HostStart() = default;
  // The starter's process id. It gets SIGTERM when this process dies. Errors: it cannot be run.
  virtual absl::StatusOr<pid_t> Start(const StartPlan& plan) = 0;
};

// Open MPI's mpirun.
class MpirunStart : public HostStart {
 public:
  absl::StatusOr<pid_t> Start(const StartPlan& plan) override;
};

struct StarterFacts {
  bool is_root = false;
  int usable_cpus = 1;  // of this host
};

// mpirun's command line for a plan. Pure.
std::vector<std::string> MpirunArguments(const StartPlan& plan, const StarterFacts& facts);

// Runs a command as the leader of a process group, with these variables added to the environment,
// no terminal to read, no signal blocked, and SIGTERM to come when this process dies. Errors: it
// cannot be run, and why.
absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& arguments,
                                   const std::map<std::string, std::string>& environment);

}  // namespace muster::launch
