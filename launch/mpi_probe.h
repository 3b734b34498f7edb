#pragma once
// Whether MPI starts in a process of its own here, and with how many threads it can be used.
#include <string>

namespace muster::launch {

struct MpiFacts {
  std::string library;       // its version, first line
  std::string thread_level;  // what MPI_Init_thread provides when asked for MPI_THREAD_MULTIPLE;
                             // empty if it failed or took more than 10 s
};

// Starts MPI in a child process, so that neither its failure nor its state stays with the caller.
MpiFacts ProbeMpi();

}  // namespace muster::launch
