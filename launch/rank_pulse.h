#pragma once
// Starts a rank's heartbeat, towards the supervisor that the environment names, if any.
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "launch/rank_env.h"
#include "runtime/fault/deadlines.h"
#include "runtime/fault/pulse.h"
#include "runtime/job/run_lock.h"

namespace muster::launch {

// Call it before MPI starts, so that a rank that never comes so far is missed. A supervisor that
// cannot be reached for the least of all deadlines and a second is taken for gone. Errors: a
// variable of the supervisor is missing or malformed (its value is not quoted: it may be the
// secret); the supervisor cannot be reached.
absl::StatusOr<std::unique_ptr<runtime::Pulse>> StartPulse(const Environment& environment,
                                                           const RankEnv& env,
                                                           const runtime::Deadlines& deadlines,
                                                           runtime::RankProgress* progress);

// What a supervisor says of this start; nullopt without one. Errors: a number is missing or none.
absl::StatusOr<std::optional<runtime::SupervisedStart>> SupervisedStartOf(
    const Environment& environment);

}  // namespace muster::launch
