#pragma once
// The exit codes of a training process that supervisors, schedulers and reports decide by: the one
// list of their numbers. launch/exit_codes.h says what they tell users.

namespace muster::runtime {

constexpr int kExitDone = 0;
constexpr int kExitFailure = 1;  // anything that no other code names
constexpr int kExitUsage = 2;    // the command line or a config is wrong: starting again is vain
// Trained, or stopped as asked, but the disk did not take the state: start again (EX_IOERR).
constexpr int kExitNotSaved = 74;
constexpr int kExitRequeue = 75;  // stopped early, all is well: start again (EX_TEMPFAIL)
// The state is not to be trusted (numbers that are not finite, a loss spike, replicas that differ):
// start again from a checkpoint.
constexpr int kExitRollBack = 76;
constexpr int kExitDoNotRequeue = 93;  // would fail in the same way again

}  // namespace muster::runtime
