#include "runtime/fault/policy.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/job/exit_code.h"

namespace muster::runtime {
namespace {

// A host is not trusted any more after so many failures in a row.
constexpr int kFailuresOfABadHost = 2;
// Nor a checkpoint from which so many attempts came to numbers that are not to be trusted.
constexpr int kTrustInACheckpoint = 2;

Decision Stop(int exit_code, std::string reason) {
  return {.action = Action::kStop, .exit_code = exit_code, .reason = std::move(reason)};
}

double Backoff(const AttemptHistory& history, const RecoveryOptions& options) {
  if (history.cycles_without_progress == 0) return 0;
  const double doubled =
      std::ldexp(options.first_backoff_seconds, std::min(history.cycles_without_progress - 1, 30));
  return std::min(doubled, options.max_backoff_seconds);
}

Decision Restart(Action action, int world_size, const AttemptHistory& history,
                 const RecoveryOptions& options, std::string reason) {
  return {.action = action,
          .backoff_seconds = Backoff(history, options),
          .world_size = world_size,
          .reason = std::move(reason)};
}

Decision AfterHostFailed(bool lost, const AttemptHistory& history, const RecoveryOptions& options) {
  const char* why = lost ? "the host is lost" : "the same host failed again";
  if (history.replaceable) {
    return Restart(Action::kRestartWithSpare, history.world_size, history, options,
                   absl::StrCat(why, ": another one takes its place, from the newest checkpoint"));
  }
  if (history.smaller_world_size > 0) {
    return Restart(Action::kRestartSmaller, history.smaller_world_size, history, options,
                   absl::StrCat(why, " and no other has room: going on with ",
                                history.smaller_world_size, " ranks from the newest checkpoint"));
  }
  if (!lost) {
    return Restart(Action::kRestart, history.world_size, history, options,
                   absl::StrCat(why,
                                ", but no other has room and no smaller mesh is allowed: "
                                "restarting from the newest checkpoint"));
  }
  return Stop(kExitRequeue, absl::StrCat(why,
                                         ", no other has room and no smaller mesh is allowed: "
                                         "start the job again on other hosts"));
}

Decision DecideWhere(const Failure& failure, const AttemptHistory& history,
                     const RecoveryOptions& options) {
  if (failure.kind == FailureKind::kHostLost) return AfterHostFailed(true, history, options);
  if (history.failures_of_host >= kFailuresOfABadHost) {
    return AfterHostFailed(false, history, options);
  }
  return Restart(Action::kRestart, history.world_size, history, options,
                 "restarting from the newest checkpoint");
}

Decision AfterFailedAttempt(const Failure& failure, const AttemptHistory& history,
                            const RecoveryOptions& options) {
  if (history.cycles_without_progress >= options.max_cycles_without_progress) {
    return Stop(kExitDoNotRequeue,
                absl::StrCat("no progress in ", history.cycles_without_progress,
                             " attempts in a row: it would fail in the same way again"));
  }
  if (history.restarts >= options.max_restarts) {
    return Stop(kExitFailure, absl::StrCat("all ", options.max_restarts,
                                           " restarts from one checkpoint are used up "
                                           "(--max-restarts)"));
  }
  Decision decision = DecideWhere(failure, history, options);
  // The newest checkpoint has led to the same numbers twice: what is wrong may be in it.
  if (failure.kind == FailureKind::kNumerics && decision.action != Action::kStop &&
      history.bad_numbers >= kTrustInACheckpoint && history.older_checkpoints > 0) {
    decision.older_checkpoint = true;
    absl::StrAppend(&decision.reason,
                    " (the one before it: it has led to the same numbers twice and is set aside)");
  }
  return decision;
}

}  // namespace

Decision Decide(const Failure& failure, const AttemptHistory& history,
                const RecoveryOptions& options) {
  switch (failure.kind) {
    case FailureKind::kNone:
      return {.action = Action::kFinish, .exit_code = kExitDone, .reason = "done"};
    case FailureKind::kPreempted:
      return Stop(kExitRequeue, "stopped on request: start again to go on");
    case FailureKind::kUsage:
      return Stop(kExitUsage, "the command line or the config is wrong");
    case FailureKind::kHopeless:
      return Stop(kExitDoNotRequeue, "the job says that it would fail in the same way again");
    case FailureKind::kStraggler:
      if (options.replace_stragglers && history.replaceable &&
          history.restarts < options.max_restarts) {
        return Restart(Action::kRestartWithSpare, history.world_size, history, options,
                       "another host takes the slow rank's place");
      }
      return {.action = Action::kContinue, .reason = "the job goes on at the slow rank's pace"};
    case FailureKind::kCrash:
    case FailureKind::kError:
    case FailureKind::kHang:
    case FailureKind::kHostLost:
    case FailureKind::kNumerics:
    case FailureKind::kLaunch:
      break;
  }
  return AfterFailedAttempt(failure, history, options);
}

AttemptHistory After(AttemptHistory history, const AttemptFacts& facts) {
  const bool progress = facts.best > facts.best_before;
  if (facts.first_step > history.furthest_begin) {
    history.furthest_begin = facts.first_step;
    history.restarts = 0;
  }
  const int bad = facts.kind == FailureKind::kNumerics ? 1 : 0;
  history.bad_numbers = progress ? bad : history.bad_numbers + bad;
  history.cycles_without_progress = progress ? 0 : history.cycles_without_progress + 1;
  history.failures_of_host = facts.same_host && !progress ? history.failures_of_host + 1 : 1;
  return history;
}

}  // namespace muster::runtime
