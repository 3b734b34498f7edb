#include "runtime/goodput/supervised.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "runtime/goodput/record_scan.h"
#include "runtime/job/exit_code.h"

namespace muster::runtime {
namespace {

int64_t FirstProcessStart(const AttemptLog& attempt) {
  int64_t first = attempt.ranks[0].process_start_ns;
  for (const RankLog& rank : attempt.ranks) first = std::min(first, rank.process_start_ns);
  return first;
}

// What to add to the supervisor's times to have the attempt's, and how wrong that may be.
struct Placement {
  int64_t offset_ns = 0;
  std::optional<int64_t> bound_ns = 0;
};

// What happened on one side before something on the other: ranks start after they were spawned, and
// one that says goodbye has written all that it wrote before (a closed connection, or the end of
// the attempt, tells less: its rank may live on in another part of the network). Whatever wall
// clocks say must lie between.
Placement PlaceByCauses(const SupervisorLog& log, const SupervisedAttempt& supervised,
                        const AttemptLog& attempt) {
  const int64_t by_wall_clock = (log.begin_realtime_ns - log.begin_monotonic_ns) -
                                (attempt.begin_realtime_ns - FirstProcessStart(attempt));
  const int64_t most =
      FirstProcessStart(attempt) - supervised.spawn_ns.value_or(supervised.begin_ns);
  int64_t least = std::numeric_limits<int64_t>::min();
  for (const RankLog& rank : attempt.ranks) {
    if (!rank.exit_code) continue;
    const auto goodbye =
        std::find_if(supervised.exits.begin(), supervised.exits.end(), [&](const RankExit& exit) {
          return exit.rank == rank.rank && exit.status != kExitNotKnown;
        });
    if (goodbye != supervised.exits.end()) {
      least = std::max(least, rank.end_ns - goodbye->seen_ns);
    }
  }
  if (least == std::numeric_limits<int64_t>::min() || least > most) {
    return {std::min(by_wall_clock, most), std::nullopt};
  }
  const bool plausible = least <= by_wall_clock && by_wall_clock <= most;  // else it has jumped
  const int64_t offset = plausible ? by_wall_clock : least + (most - least) / 2;
  return {offset, std::max(most - offset, offset - least)};
}

Placement Place(const SupervisorLog& log, const SupervisedAttempt& supervised,
                const AttemptLog& attempt) {
  if (attempt.ranks.empty() || attempt.clock == ClockId{log.begin.host, log.begin.boot}) return {};
  const Placement placed = PlaceByCauses(log, supervised, attempt);
  return IsOffset(placed.offset_ns) ? placed : Placement{0, std::nullopt};
}

// The end of an attempt that still runs, or whose supervisor died too: as far as records go.
int64_t LastSign(const SupervisedAttempt& supervised, int64_t offset, const AttemptLog& attempt) {
  int64_t last = std::max(
      {supervised.begin_ns, supervised.spawn_ns.value_or(0), supervised.kill_ns.value_or(0)});
  if (supervised.failure) last = std::max(last, supervised.failure->detected_ns);
  last += offset;
  for (const RankLog& rank : attempt.ranks) last = std::max(last, rank.end_ns);
  return last;
}

Failure Moved(Failure failure, int64_t by_ns) {
  failure.happened_ns += by_ns;
  failure.detected_ns += by_ns;
  return failure;
}

// A failure; else the slow rank whose place a spare took: others only delay an attempt.
std::optional<Failure> WhatEnded(const SupervisedAttempt& supervised) {
  const bool replaced = supervised.action == Action::kRestartWithSpare;
  if (supervised.failure || supervised.stragglers.empty() || !replaced) return supervised.failure;
  return supervised.stragglers.back();
}

// Ends the rank's last state no later than at `at_ns`; but what the rank wrote down after that (it
// was ahead, or clocks differ) stands.
void EndNoLaterThan(int64_t at_ns, RankLog* rank) {
  const int64_t last_written =
      rank->phases.empty() ? rank->process_start_ns : rank->phases.back().begin_ns;
  rank->end_ns = std::max(last_written, std::min(at_ns, rank->end_ns));
}

bool IsDone(const SupervisedAttempt& supervised) {
  return supervised.end_ns && supervised.action == Action::kFinish &&
         supervised.exit_code == kExitDone;
}

// Takes out what the rank wrote down later: it was frozen, or cut off with its host, and outlived
// its attempt. How a step ended that was open then is of no use.
void ForgetAfter(int64_t at_ns, RankLog* rank) {
  if (rank->end_ns > at_ns) rank->exit_code.reset();
  bool forgot = false;
  for (; !rank->phases.empty() && rank->phases.back().begin_ns > at_ns; forgot = true) {
    if (rank->phases.back().state == State::kStep) rank->steps.pop_back();
    rank->phases.pop_back();
  }
  const bool opens_step =
      forgot && !rank->phases.empty() && rank->phases.back().state == State::kStep;
  if (opens_step) rank->steps.back() = {.step = rank->steps.back().step};
}

// The last state of a rank that died, or was killed with the rest, ends when the job failed.
void CloseAt(int64_t failed_ns, int64_t kill_ns, RankLog* rank) {
  if (rank->exit_code) return;
  rank->end_ns = std::max(kill_ns, rank->end_ns);
  EndNoLaterThan(failed_ns, rank);
}

}  // namespace

void JoinSupervisor(const SupervisorLog& log, const SupervisedAttempt& supervised,
                    AttemptLog* attempt) {
  const Placement placed = Place(log, supervised, *attempt);
  const int64_t offset = placed.offset_ns;
  if (!placed.bound_ns) attempt->clock_bound_ns.reset();
  if (attempt->clock_bound_ns) {
    attempt->clock_bound_ns = std::max(*attempt->clock_bound_ns, *placed.bound_ns);
  }
  attempt->supervisor = log.begin.supervisor;
  attempt->supervisor_begin_ns = supervised.begin_ns;
  attempt->supervisor_end_ns = supervised.end_ns;
  const int64_t begin = supervised.begin_ns + offset;
  attempt->begin_ns = begin;
  if (supervised.kill_ns) attempt->kill_ns = *supervised.kill_ns + offset;
  if (supervised.end_ns) {
    attempt->end_ns = *supervised.end_ns + offset;
    attempt->end_realtime_ns = supervised.end_realtime_ns;
    for (RankLog& rank : attempt->ranks) {
      if (attempt->clock_bound_ns) ForgetAfter(*attempt->end_ns + *attempt->clock_bound_ns, &rank);
      EndNoLaterThan(*attempt->end_ns, &rank);
    }
  }
  for (const Failure& slow : supervised.stragglers) {
    attempt->stragglers.push_back(Moved(slow, offset));
  }
  for (RankExit exit : supervised.exits) {
    exit.seen_ns += offset;
    attempt->exits.push_back(exit);
  }
  attempt->spares_in = supervised.spares;
  attempt->hosts = supervised.hosts;
  attempt->scheduler = log.begin.scheduler;
  if (!supervised.end_ns) attempt->end_ns = LastSign(supervised, offset, *attempt);
  if (attempt->ranks.empty()) {
    attempt->world_size = supervised.world_size;
    attempt->clock = {log.begin.host, log.begin.boot};
    const int64_t wall_offset = log.begin_realtime_ns - log.begin_monotonic_ns;
    attempt->begin_realtime_ns = begin + wall_offset;
    if (!supervised.end_ns) attempt->end_realtime_ns = *attempt->end_ns + wall_offset;
  } else {
    attempt->begin_realtime_ns += std::min<int64_t>(0, begin - FirstProcessStart(*attempt));
  }
  const std::optional<Failure> failure = WhatEnded(supervised);
  if (!failure || failure->kind == FailureKind::kNone) {
    if (IsDone(supervised)) {  // a rank without an end record has lost it, no more
      for (RankLog& rank : attempt->ranks) rank.exit_code = rank.exit_code.value_or(kExitDone);
    }
    return;
  }
  attempt->failure = Moved(*failure, offset);
  // Nothing was left to kill: the supervisor went on to what follows at once.
  if (supervised.end_ns && !attempt->kill_ns) attempt->kill_ns = attempt->failure->detected_ns;
  if (attempt->failure->kind == FailureKind::kPreempted) return;  // its ranks said goodbye
  const int64_t failed = attempt->failure->happened_ns;
  for (RankLog& rank : attempt->ranks) {
    CloseAt(failed, attempt->kill_ns.value_or(failed), &rank);
  }
}

}  // namespace muster::runtime
