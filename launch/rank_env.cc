#include "launch/rank_env.h"

#include <unistd.h>

#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::launch {
namespace {

struct Variables {
  RankEnv::Launcher launcher;
  const char *rank, *size, *local_rank, *local_size;
};
// In order of precedence. Slurm has no number of ranks on this host that is equal for all hosts.
constexpr Variables kLaunchers[] = {
    {RankEnv::Launcher::kOpenMpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {RankEnv::Launcher::kPmi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {RankEnv::Launcher::kSlurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", nullptr},
};

// Leaves `value` as it is when the variable is absent.
template <typename Number>
absl::Status ReadNumber(const Environment& environment, const char* name, Number least,
                        Number* value) {
  const auto found = name == nullptr ? environment.end() : environment.find(name);
  if (found == environment.end()) return absl::OkStatus();
  if (!absl::SimpleAtoi(found->second, value) || *value < least) {
    return absl::InvalidArgumentError(absl::StrCat("environment variable ", name, "='",
                                                   found->second, "': wanted a number >= ", least));
  }
  return absl::OkStatus();
}

absl::Status CheckBelow(const char* rank_name, int rank, const char* size_name, int size) {
  if (rank < size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("environment variables ", rank_name, "=", rank,
                                                 " and ", size_name, "=", size,
                                                 ": a rank must be below its size"));
}

}  // namespace

Environment CurrentEnvironment() {
  Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

const char* Name(RankEnv::Launcher launcher) {
  switch (launcher) {
    case RankEnv::Launcher::kAlone:
      return "alone";
    case RankEnv::Launcher::kOpenMpi:
      return "Open MPI";
    case RankEnv::Launcher::kPmi:
      return "PMI";
    case RankEnv::Launcher::kSlurm:
      return "Slurm";
  }
  return "?";
}

absl::StatusOr<RankEnv> ReadRankEnv(const Environment& environment) {
  RankEnv result;
  for (const Variables& names : kLaunchers) {
    if (!environment.contains(names.rank) || !environment.contains(names.size)) continue;
    result.launcher = names.launcher;
    RETURN_IF_ERROR(ReadNumber(environment, names.rank, 0, &result.rank));
    RETURN_IF_ERROR(ReadNumber(environment, names.size, 1, &result.size));
    RETURN_IF_ERROR(ReadNumber(environment, names.local_rank, 0, &result.local_rank));
    result.local_size = result.local_rank + 1;  // at least; where the launcher does not say
    RETURN_IF_ERROR(ReadNumber(environment, names.local_size, 1, &result.local_size));
    RETURN_IF_ERROR(CheckBelow(names.rank, result.rank, names.size, result.size));
    if (names.local_size != nullptr) {
      RETURN_IF_ERROR(
          CheckBelow(names.local_rank, result.local_rank, names.local_size, result.local_size));
    }
    break;
  }
  if (const auto job = environment.find("SLURM_JOB_ID"); job != environment.end()) {
    runtime::SchedulerJob& scheduler = result.scheduler;
    scheduler.id = job->second;
    RETURN_IF_ERROR(ReadNumber(environment, "SLURM_RESTART_COUNT", 0, &scheduler.restarts));
    RETURN_IF_ERROR(
        ReadNumber(environment, "SLURM_JOB_START_TIME", int64_t{0}, &scheduler.started_s));
    RETURN_IF_ERROR(
        ReadNumber(environment, "MUSTER_SUBMIT_TIME", int64_t{0}, &scheduler.submitted_s));
  }
  return result;
}

}  // namespace muster::launch
