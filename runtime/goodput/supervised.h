#pragma once
// Joins what a supervisor knows of an attempt with what the attempt's ranks wrote.
#include "runtime/goodput/run_log.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::runtime {

// Sets the attempt's begin, end, kill and failure on its own clock (a supervisor on another host is
// placed by the wall clocks, as far as those agree with what must have come before what; that
// bounds the error), and closes the last state of each rank without an end record at the failure:
// from there on the job as a whole did nothing but wait to be noticed. What a rank wrote after its
// attempt had ended is left out. If the supervisor says that all is done, so is each rank. An
// attempt without ranks takes its size and clock from the supervisor.
void JoinSupervisor(const SupervisorLog& log, const SupervisedAttempt& supervised,
                    AttemptLog* attempt);

}  // namespace muster::runtime
