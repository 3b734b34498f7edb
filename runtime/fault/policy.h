#pragma once
// What to do after a failure. Pure: all that may happen is a table in tests/runtime/policy_test.cc.
#include <cstdint>
#include <string>

#include "runtime/goodput/failure.h"

namespace muster::runtime {

struct RecoveryOptions {
  int max_restarts = 20;  // from one checkpoint: a newer one gives all back
  int max_cycles_without_progress = 3;
  // Seconds before a restart: none after a cycle that made progress; else the first, doubled for
  // each further cycle without progress, up to the largest.
  double first_backoff_seconds = 1, max_backoff_seconds = 60;
  bool replace_stragglers = false;  // with a spare host, if there is one
};

// What has happened so far, the failed attempt included.
struct AttemptHistory {
  int restarts = 0;                 // since an attempt began further than all before it
  int64_t furthest_begin = 0;       // the first step of that attempt
  int cycles_without_progress = 0;  // in a row: attempts that ended no step beyond the best before
  int bad_numbers = 0;              // of those and the one before: attempts that ended in kNumerics
  int older_checkpoints = 0;        // than the newest
  int failures_of_host = 0;         // in a row without progress, on the host that is blamed now
  bool replaceable = false;         // other hosts have room for the ranks of those blamed now
  int world_size = 0;
  int smaller_world_size = 0;  // the next smaller one that the config and the user allow, and that
                               // fits on the hosts without those blamed now; 0: none
};

struct Decision {
  Action action = Action::kStop;
  double backoff_seconds = 0;
  int world_size = 0;             // of the restart
  bool older_checkpoint = false;  // go on from the one before the newest, which is set aside
  int exit_code = 0;              // kFinish, kStop: as in launch/exit_codes.h
  std::string reason;             // a sentence for people
};

// No attempt comes after it.
inline bool Ends(const Decision& decision) {
  return decision.action == Action::kFinish || decision.action == Action::kStop;
}

Decision Decide(const Failure& failure, const AttemptHistory& history,
                const RecoveryOptions& options);

// What an attempt that failed has come to.
struct AttemptFacts {
  FailureKind kind = FailureKind::kNone;
  int64_t first_step = 0;             // that it began; 0: it never came to one
  int64_t best_before = 0, best = 0;  // the highest that any had completed before it, and with it
  bool same_host = false;             // the failure blames the host that the one before blamed
};

// The history after it.
AttemptHistory After(AttemptHistory history, const AttemptFacts& facts);

}  // namespace muster::runtime
