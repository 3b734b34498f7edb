#pragma once
// Ends a process before any chosen system call by which it changes files: for tests that want to
// know what a crash at that point leaves behind. Nothing in the process takes part: it is traced.
#include <cstdint>
#include <functional>

namespace muster::runtime {

// What became of a body that ran in a process of its own.
struct CrashOutcome {
  bool traced = false;   // false: this host forbids tracing, and nothing has run
  bool crashed = false;  // ended by us; else it ran to its end
  int exit_code = -1;    // of one that ran to its end
  int64_t calls = 0;     // that change files, before its end, of all its threads
};

// Forks, runs `body`, which returns an exit code, and kills the process with SIGKILL in place of
// its call number `crash_at` (from 0). Counted are the calls that create, write, cut, sync, lock,
// link, rename and remove files, but not writes to standard output and error.
CrashOutcome RunUntilCall(int64_t crash_at, const std::function<int()>& body);

}  // namespace muster::runtime
