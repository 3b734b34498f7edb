#pragma once
// How an attempt ended, by its supervisor if it had one, else by what its ranks left.
#include <string>

#include "runtime/goodput/attribution.h"

namespace muster::runtime {

// A supervisor saw a failure end it; a request to stop is none.
bool FailedBySupervisor(const AttributedAttempt& attempt);
// As a supervisor says; without one: ended without an exit code, or with one that is neither 0 nor
// kExitRequeue (stopped by request). An open attempt has not failed, as far as is known: if it was
// killed, the next attempt shows that.
bool Failed(const AttributedAttempt& attempt);
// All its ranks left an end record with exit code 0: nothing is left to do.
bool Finished(const AttributedAttempt& attempt);
// "done", "stopped, may be requeued", "crash, rank 3", "rank 3 left no end record", "exit code 1",
// "under way, or was killed".
std::string HowItEnded(const AttributedAttempt& attempt);
// What a supervisor saw of its processes' ends, in that order: "rank 1 without a word, ranks 0 2
// with 143 (signal 15), the starter with 137 (signal 9)"; "" without one.
std::string ExitsText(const AttributedAttempt& attempt);

}  // namespace muster::runtime
