#include "parallel/comm/rendezvous.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "kernels/base/error.h"
#include "parallel/comm/mpi_world.h"

namespace muster::parallel {
namespace {

class WorldOfOne final : public World {
 public:
  WorldOfOne() {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    host_ = name;
  }
  absl::StatusOr<std::unique_ptr<ProcessGroup>> NewGroup(std::string name,
                                                         std::vector<int> world_ranks,
                                                         TimeCategory category,
                                                         kernels::Device) override {
    MUSTER_CHECK(world_ranks == std::vector<int>{0}) << "group " << name << " in a world of one";
    return std::make_unique<ProcessGroup>(std::move(name), std::move(world_ranks), /*rank=*/0,
                                          category, /*communicator=*/nullptr, &log_);
  }
  absl::StatusOr<std::vector<std::string>> GatherText(const std::string& text) override {
    return std::vector<std::string>{text};
  }
  [[noreturn]] void Abort(int exit_code) override { _exit(exit_code); }
};

// Variables that mpirun, a PMIx server or a PMI server gives to the ranks it starts. Slurm's own
// are no sign: a batch script has them too.
bool StartedByLauncher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<World>> World::Create(const WorldOptions& options) {
  return StartedByLauncher() ? MakeMpiWorld(options) : Alone();
}

std::unique_ptr<World> World::Alone() { return std::make_unique<WorldOfOne>(); }

}  // namespace muster::parallel
