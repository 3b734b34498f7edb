#pragma once
// What muster's exit status tells scripts and schedulers (docs/guide/exit_codes.md). A supervisor
// or a batch script decides by it whether to start the job again.

namespace muster::launch {

constexpr int kExitDone = 0;
constexpr int kExitFailure = 1;   // anything that no other code names
constexpr int kExitUsage = 2;     // the command line or a config is wrong: starting again is vain
constexpr int kExitRequeue = 75;  // stopped early, all is well: start again (EX_TEMPFAIL)
// The state is not to be trusted (numbers that are not finite, a loss spike, replicas that differ):
// start again from a checkpoint.
constexpr int kExitRollBack = 76;
constexpr int kExitDoNotRequeue = 93;  // would fail in the same way again

struct ExitCodeText {
  int code;
  const char* meaning;
};
constexpr ExitCodeText kExitCodeTexts[] = {
    {kExitDone, "done"},
    {kExitFailure, "anything else"},
    {kExitUsage, "wrong usage or config"},
    {kExitRequeue, "requeue me"},
    {kExitRollBack, "start again from a checkpoint"},
    {kExitDoNotRequeue, "do not requeue"},
};

}  // namespace muster::launch
