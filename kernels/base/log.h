#pragma once
// One line to stderr, prefixed with time, severity and, once known, the world rank. Thread-safe;
// a line is one write(2), so lines of ranks that share a terminal do not interleave.
#include <string>

namespace muster::kernels {

enum class Severity { kInfo, kWarning, kError };

void Log(Severity severity, const std::string& message);

// Called once after rendezvous, so that every later line names its rank; -1 (the start value)
// prints no rank.
void SetLogRank(int world_rank);

}  // namespace muster::kernels
