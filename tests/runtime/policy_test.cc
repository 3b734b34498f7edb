#include "runtime/fault/policy.h"

#include <gtest/gtest.h>

#include <set>

namespace muster::runtime {
namespace {

Failure Of(FailureKind kind) {
  Failure failure;
  failure.kind = kind;
  return failure;
}

struct Row {
  const char* name;
  FailureKind kind;
  AttemptHistory history;
  RecoveryOptions options;
  Action action;
  int exit_code;
  double backoff_seconds;
  int world_size;
  bool older_checkpoint = false;
};

AttemptHistory History(AttemptHistory history) {
  history.world_size = 8;
  return history;
}

const Row kRows[] = {
    {"done", FailureKind::kNone, History({}), {}, Action::kFinish, 0, 0, 0},
    {"asked to stop", FailureKind::kPreempted, History({}), {}, Action::kStop, 75, 0, 0},
    {"asked to stop while it fails all the time",
     FailureKind::kPreempted,
     History({.restarts = 100, .cycles_without_progress = 9}),
     {},
     Action::kStop,
     75,
     0,
     0},
    {"wrong config", FailureKind::kUsage, History({}), {}, Action::kStop, 2, 0, 0},
    {"it says so itself", FailureKind::kHopeless, History({}), {}, Action::kStop, 93, 0, 0},
    {"slow rank",
     FailureKind::kStraggler,
     History({.replaceable = true}),
     {},
     Action::kContinue,
     0,
     0,
     0},
    {"slow rank, to be replaced",
     FailureKind::kStraggler,
     History({.replaceable = true}),
     {.replace_stragglers = true},
     Action::kRestartWithSpare,
     0,
     0,
     8},
    {"slow rank, no spare",
     FailureKind::kStraggler,
     History({}),
     {.replace_stragglers = true},
     Action::kContinue,
     0,
     0,
     0},
    {"slow rank, no restart left",
     FailureKind::kStraggler,
     History({.restarts = 3, .replaceable = true}),
     {.max_restarts = 3, .replace_stragglers = true},
     Action::kContinue,
     0,
     0,
     0},
    {"crash after progress",
     FailureKind::kCrash,
     History({.restarts = 7}),
     {},
     Action::kRestart,
     0,
     0,
     8},
    {"error", FailureKind::kError, History({}), {}, Action::kRestart, 0, 0, 8},
    {"hang", FailureKind::kHang, History({}), {}, Action::kRestart, 0, 0, 8},
    {"bad numbers", FailureKind::kNumerics, History({}), {}, Action::kRestart, 0, 0, 8},
    {"bad numbers from the newest checkpoint again",
     FailureKind::kNumerics,
     History({.cycles_without_progress = 1, .bad_numbers = 2, .older_checkpoints = 2}),
     {},
     Action::kRestart,
     0,
     1,
     8,
     true},
    {"bad numbers again, and nothing older",
     FailureKind::kNumerics,
     History({.cycles_without_progress = 1, .bad_numbers = 2}),
     {},
     Action::kRestart,
     0,
     1,
     8},
    {"bad numbers again, on the same host",
     FailureKind::kNumerics,
     History({.cycles_without_progress = 1,
              .bad_numbers = 2,
              .older_checkpoints = 1,
              .failures_of_host = 2,
              .replaceable = true}),
     {},
     Action::kRestartWithSpare,
     0,
     1,
     8,
     true},
    {"bad numbers for ever",
     FailureKind::kNumerics,
     History({.cycles_without_progress = 3, .bad_numbers = 4, .older_checkpoints = 1}),
     {},
     Action::kStop,
     93,
     0,
     0},
    {"another failure after bad numbers",
     FailureKind::kCrash,
     History({.cycles_without_progress = 2, .bad_numbers = 2, .older_checkpoints = 2}),
     {},
     Action::kRestart,
     0,
     2,
     8},
    {"never came up",
     FailureKind::kLaunch,
     History({.cycles_without_progress = 1}),
     {},
     Action::kRestart,
     0,
     1,
     8},
    {"back-off doubles",
     FailureKind::kCrash,
     History({.cycles_without_progress = 2}),
     {},
     Action::kRestart,
     0,
     2,
     8},
    {"back-off is bounded",
     FailureKind::kCrash,
     History({.cycles_without_progress = 40}),
     {.max_cycles_without_progress = 50, .max_backoff_seconds = 30},
     Action::kRestart,
     0,
     30,
     8},
    {"crash loop",
     FailureKind::kCrash,
     History({.cycles_without_progress = 3}),
     {},
     Action::kStop,
     93,
     0,
     0},
    {"crash loop with spares",
     FailureKind::kHostLost,
     History({.cycles_without_progress = 3, .replaceable = true}),
     {},
     Action::kStop,
     93,
     0,
     0},
    {"restarts used up",
     FailureKind::kCrash,
     History({.restarts = 5}),
     {.max_restarts = 5},
     Action::kStop,
     1,
     0,
     0},
    {"no restart wanted",
     FailureKind::kHang,
     History({}),
     {.max_restarts = 0},
     Action::kStop,
     1,
     0,
     0},
    {"host lost, spare there",
     FailureKind::kHostLost,
     History({.replaceable = true, .smaller_world_size = 4}),
     {},
     Action::kRestartWithSpare,
     0,
     0,
     8},
    {"host lost, smaller mesh allowed",
     FailureKind::kHostLost,
     History({.smaller_world_size = 4}),
     {},
     Action::kRestartSmaller,
     0,
     0,
     4},
    {"host lost, neither", FailureKind::kHostLost, History({}), {}, Action::kStop, 75, 0, 0},
    {"same host again, spare there",
     FailureKind::kCrash,
     History({.cycles_without_progress = 1, .failures_of_host = 2, .replaceable = true}),
     {},
     Action::kRestartWithSpare,
     0,
     1,
     8},
    {"same host again, smaller mesh allowed",
     FailureKind::kHang,
     History({.cycles_without_progress = 1, .failures_of_host = 2, .smaller_world_size = 6}),
     {},
     Action::kRestartSmaller,
     0,
     1,
     6},
    {"same host again, neither",
     FailureKind::kCrash,
     History({.cycles_without_progress = 1, .failures_of_host = 2}),
     {},
     Action::kRestart,
     0,
     1,
     8},
};

TEST(Policy, DecidesAsTheTableSays) {
  for (const Row& row : kRows) {
    const Decision decision = Decide(Of(row.kind), row.history, row.options);
    EXPECT_EQ(decision.action, row.action) << row.name << ": " << Name(decision.action);
    EXPECT_EQ(decision.exit_code, row.exit_code) << row.name;
    EXPECT_EQ(decision.backoff_seconds, row.backoff_seconds) << row.name;
    EXPECT_EQ(decision.world_size, row.world_size) << row.name;
    EXPECT_EQ(decision.older_checkpoint, row.older_checkpoint) << row.name;
    EXPECT_FALSE(decision.reason.empty()) << row.name;
  }
}

TEST(Policy, EveryKindAndEveryActionIsInTheTable) {
  std::set<FailureKind> kinds;
  std::set<Action> actions;
  for (const Row& row : kRows) {
    kinds.insert(row.kind);
    actions.insert(row.action);
  }
  EXPECT_EQ(kinds.size(), static_cast<size_t>(kNumFailureKinds));
  EXPECT_EQ(actions.size(), 6u);
}

// Whatever happens, a restart has ranks to start and a stop an exit code that says so; and a
// failure that repeats without progress ends.
TEST(Policy, NoSequenceOfFailuresRestartsForever) {
  for (int kind = 0; kind < kNumFailureKinds; ++kind) {
    for (const bool spare : {false, true}) {
      for (const int smaller : {0, 4}) {
        AttemptHistory history = History({.replaceable = spare, .smaller_world_size = smaller});
        int restarts = 0;
        for (; restarts < 100; ++restarts) {
          history = After(history, {.best_before = 10, .best = 10, .same_host = true});
          const Decision decision = Decide(Of(static_cast<FailureKind>(kind)), history, {});
          if (decision.action == Action::kFinish || decision.action == Action::kContinue) break;
          if (decision.action == Action::kStop) {
            EXPECT_NE(decision.exit_code, 0);
            break;
          }
          EXPECT_GT(decision.world_size, 0);
          ++history.restarts;
        }
        EXPECT_LT(restarts, 3) << Name(static_cast<FailureKind>(kind));
      }
    }
  }
}

TEST(Policy, ProgressForgivesWhatWasBefore) {
  AttemptHistory history = History({});
  history = After(history, {});
  history = After(history, {.same_host = true});
  EXPECT_EQ(history.cycles_without_progress, 2);
  EXPECT_EQ(history.failures_of_host, 2);
  history = After(history, {.best = 5, .same_host = true});
  EXPECT_EQ(history.cycles_without_progress, 0);
  EXPECT_EQ(history.failures_of_host, 1);
}

// A crash in between does not make a checkpoint better; a new step does.
TEST(Policy, BadNumbersAreCountedUntilThereIsProgress) {
  AttemptHistory history = History({});
  const AttemptFacts bad{.kind = FailureKind::kNumerics, .best_before = 9, .best = 9};
  const AttemptFacts crash{.kind = FailureKind::kCrash, .best_before = 9, .best = 9};
  history = After(history, {.kind = FailureKind::kNumerics, .best_before = 3, .best = 9});
  EXPECT_EQ(history.bad_numbers, 1);
  EXPECT_EQ(After(history, bad).bad_numbers, 2);
  EXPECT_EQ(After(After(history, crash), bad).bad_numbers, 2);
  EXPECT_EQ(After(history, {.kind = FailureKind::kCrash, .best_before = 9, .best = 12}).bad_numbers,
            0);
}

// How many restarts a run gets whose attempts begin at first_step(n) and end a new step each.
int RestartsOf(int64_t (*first_step)(int64_t attempt)) {
  AttemptHistory history = History({});
  for (int64_t attempt = 0; attempt < 10'000; ++attempt) {
    history = After(
        history,
        {.first_step = first_step(attempt), .best_before = 100 + attempt, .best = 101 + attempt});
    if (Decide(Of(FailureKind::kCrash), history, {}).action == Action::kStop) {
      return static_cast<int>(attempt);
    }
    ++history.restarts;
  }
  return 10'000;
}

TEST(Policy, RestartsAreCountedFromTheNewestCheckpoint) {
  EXPECT_EQ(RestartsOf([](int64_t attempt) { return 1 + 10 * (attempt / 20); }), 10'000)
      << "a run that gets on, if slowly, may restart for ever";
  EXPECT_EQ(RestartsOf([](int64_t) { return int64_t{1}; }), 20)
      << "each attempt ends a step more, and nothing is kept of it";
  EXPECT_EQ(RestartsOf([](int64_t attempt) { return 11 - attempt % 2; }), 20)
      << "one that begins earlier is no gain";
  EXPECT_EQ(RestartsOf([](int64_t) { return int64_t{0}; }), 20) << "none comes to a step";
}

}  // namespace
}  // namespace muster::runtime
