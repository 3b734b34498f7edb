#pragma once
// Joins what a supervisor knows of an attempt with what the attempt's ranks wrote.
#include "runtime/goodput/run_log.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::runtime {

// Sets the attempt's begin, end, kill and failure on its own clock (supervisors on another host are
// placed by the wall clocks), and closes the last state of each rank without an end record at the
// failure: from there on the job as a whole did nothing but wait to be noticed. An attempt without
// ranks takes its size and clock from the supervisor.
void JoinSupervisor(const SupervisorLog& log, const SupervisedAttempt& supervised,
                    AttemptLog* attempt);

}  // namespace muster::runtime
