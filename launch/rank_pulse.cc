#include "launch/rank_pulse.h"

#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "launch/process_space.h"

namespace muster::launch {
namespace {

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

absl::StatusOr<std::string> Required(const Environment& environment, const char* name) {
  const auto found = environment.find(name);
  if (found != environment.end()) return found->second;
  return absl::InvalidArgumentError(
      absl::StrCat("environment variable ", runtime::kSupervisorVariable, " or ",
                   runtime::kAttemptVariable, " is set, but ", name,
                   " is not: muster launch sets all; unset all to train without a supervisor"));
}

}  // namespace

absl::StatusOr<std::optional<runtime::SupervisedStart>> SupervisedStartOf(
    const Environment& environment) {
  if (!environment.contains(runtime::kAttemptVariable)) return std::nullopt;
  runtime::SupervisedStart start;
  for (const auto& [name, number] : {std::pair(runtime::kAttemptVariable, &start.attempt),
                                     std::pair(runtime::kLaunchVariable, &start.supervisor)}) {
    ASSIGN_OR_RETURN(const std::string text, Required(environment, name));
    if (absl::SimpleAtoi(text, number) && *number >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("environment variable ", name, "='", text, "': wanted a number >= 0"));
  }
  return start;
}

absl::StatusOr<std::unique_ptr<runtime::Pulse>> StartPulse(const Environment& environment,
                                                           const RankEnv& env,
                                                           const runtime::Deadlines& deadlines,
                                                           runtime::RankProgress* progress) {
  runtime::PulseOptions options;
  options.rank = env.rank;
  options.world_size = env.size;
  options.host = HostName();
  options.process_space = ProcessSpace();
  options.unreachable_ms = static_cast<int>((deadlines.least_seconds + 1) * 1e3);
  const auto supervisor = environment.find(runtime::kSupervisorVariable);
  if (supervisor != environment.end()) {
    ASSIGN_OR_RETURN(const std::string hex, Required(environment, runtime::kSecretVariable));
    const absl::StatusOr<runtime::RunSecret> secret = runtime::RunSecret::Parse(hex);
    if (!secret.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ",
                                                     runtime::kSecretVariable, ": ",
                                                     std::string(secret.status().message())));
    }
    RETURN_IF_ERROR(Required(environment, runtime::kAttemptVariable).status());
    ASSIGN_OR_RETURN(const auto start, SupervisedStartOf(environment));
    options.attempt = start->attempt;
    options.supervisor = {supervisor->second, *secret};
  }
  return runtime::Pulse::Start(std::move(options), progress);
}

}  // namespace muster::launch
