#pragma once
// What can go wrong with a running job, and what a supervisor knows of it when it has.
#include <cstdint>
#include <string>
#include <vector>

namespace muster::runtime {

// The numbers stand in ledgers: only append.
enum class FailureKind : uint8_t {
  kNone,       // the job is done
  kCrash,      // a rank died: a signal, or a connection closed without a word
  kError,      // a rank left with an error that it reported
  kHang,       // a rank is silent, or no rank makes progress
  kHostLost,   // all ranks of one of several hosts are silent
  kStraggler,  // a rank is slower than its peers; the job goes on
  kNumerics,   // its numbers are not to be trusted: gradients not finite, a loss spike, replicas
               // differ
  kLaunch,     // the job never came up
  kUsage,      // the command line or config is wrong
  kHopeless,   // the job says that it would fail in the same way again
  kPreempted,  // asked to stop: by a scheduler, or by a person
};
constexpr int kNumFailureKinds = static_cast<int>(FailureKind::kPreempted) + 1;

constexpr const char* Name(FailureKind kind) {
  constexpr const char* kNames[kNumFailureKinds] = {"none",      "crash",     "error",    "hang",
                                                    "host_lost", "straggler", "numerics", "launch",
                                                    "usage",     "hopeless",  "preempted"};
  return kNames[static_cast<int>(kind)];
}

struct Failure {
  FailureKind kind = FailureKind::kNone;
  std::vector<int> ranks;  // that are to blame, as far as is known
  std::vector<std::string>
      hosts;             // that are to blame with them: those lost; else the one they are on
  std::string evidence;  // a sentence for people: what was seen, and what the ranks last said
  int exit_code = 0;     // of the job, 128 + signal if a signal ended it; 0 while it is not known
  // CLOCK_MONOTONIC of the supervisor: when it happened (a hang: when progress was last seen), and
  // when it was noticed.
  int64_t happened_ns = 0, detected_ns = 0;
};

// What was done about it. The numbers stand in ledgers: only append.
enum class Action : uint8_t {
  kFinish,            // all is done
  kContinue,          // the job goes on; the failure is only reported
  kRestart,           // on the same hosts
  kRestartWithSpare,  // without the host that is blamed, with a spare one
  kRestartSmaller,    // with fewer ranks: less data parallelism
  kStop,              // the supervisor ends
};
constexpr int kNumActions = static_cast<int>(Action::kStop) + 1;

constexpr const char* Name(Action action) {
  constexpr const char* kNames[kNumActions] = {
      "finish", "continue", "restart", "restart_with_spare", "restart_smaller", "stop"};
  return kNames[static_cast<int>(action)];
}

}  // namespace muster::runtime
