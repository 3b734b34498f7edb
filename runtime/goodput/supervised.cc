#include "runtime/goodput/supervised.h"

#include <algorithm>

namespace muster::runtime {
namespace {

int64_t FirstProcessStart(const AttemptLog& attempt) {
  int64_t first = attempt.ranks[0].process_start_ns;
  for (const RankLog& rank : attempt.ranks) first = std::min(first, rank.process_start_ns);
  return first;
}

// What to add to the supervisor's times to have the attempt's.
int64_t ClockOffset(const SupervisorLog& log, AttemptLog* attempt) {
  const int64_t supervisor_offset = log.begin_realtime_ns - log.begin_monotonic_ns;
  if (attempt->ranks.empty() || attempt->clock_host == log.begin.host) return 0;
  return supervisor_offset - (attempt->begin_realtime_ns - FirstProcessStart(*attempt));
}

Failure Moved(Failure failure, int64_t by_ns) {
  failure.happened_ns += by_ns;
  failure.detected_ns += by_ns;
  return failure;
}

// The last state of a rank that died, or was killed with the rest, ends when the job failed; but
// what the rank wrote down after that (it was ahead, or clocks differ) stands.
void CloseAt(int64_t failed_ns, int64_t kill_ns, RankLog* rank) {
  if (rank->exit_code) return;
  const int64_t last_written =
      rank->phases.empty() ? rank->process_start_ns : rank->phases.back().begin_ns;
  rank->end_ns = std::max(last_written, std::min(failed_ns, std::max(kill_ns, rank->end_ns)));
}

}  // namespace

void JoinSupervisor(const SupervisorLog& log, const SupervisedAttempt& supervised,
                    AttemptLog* attempt) {
  const int64_t offset = ClockOffset(log, attempt);
  const int64_t begin = supervised.begin_ns + offset;
  attempt->begin_ns = begin;
  if (supervised.kill_ns) attempt->kill_ns = *supervised.kill_ns + offset;
  if (supervised.end_ns) attempt->end_ns = *supervised.end_ns + offset;
  for (const Failure& slow : supervised.stragglers) {
    attempt->stragglers.push_back(Moved(slow, offset));
  }
  for (RankExit exit : supervised.exits) {
    exit.seen_ns += offset;
    attempt->exits.push_back(exit);
  }
  attempt->spares_in = supervised.spares;
  if (attempt->ranks.empty()) {
    attempt->world_size = supervised.world_size;
    attempt->clock_host = log.begin.host;
    // A supervisor that died too: as far as its records go.
    if (!attempt->end_ns) {
      attempt->end_ns = std::max(
          {begin, supervised.spawn_ns.value_or(begin), supervised.kill_ns.value_or(begin)});
    }
    attempt->begin_realtime_ns = begin + log.begin_realtime_ns - log.begin_monotonic_ns;
  } else {
    attempt->begin_realtime_ns += std::min<int64_t>(0, begin - FirstProcessStart(*attempt));
  }
  if (!supervised.failure || supervised.failure->kind == FailureKind::kNone) return;
  attempt->failure = Moved(*supervised.failure, offset);
  if (attempt->failure->kind == FailureKind::kPreempted) return;  // its ranks said goodbye
  const int64_t failed = attempt->failure->happened_ns;
  for (RankLog& rank : attempt->ranks) {
    CloseAt(failed, attempt->kill_ns.value_or(failed), &rank);
  }
}

}  // namespace muster::runtime
