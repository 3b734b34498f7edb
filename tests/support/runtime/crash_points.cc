#include "tests/support/runtime/crash_points.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>

namespace muster::runtime {
namespace {

bool ChangesFiles(uint64_t number, const uint64_t* args) {
  switch (number) {
    case SYS_write:
    case SYS_pwrite64:
      return args[0] > 2;
    case SYS_openat:
      return (args[2] & O_CREAT) != 0;
    case SYS_fcntl:
      return args[1] == F_OFD_SETLK;
    case SYS_fsync:
    case SYS_fdatasync:
    case SYS_ftruncate:
    case SYS_renameat2:
    case SYS_renameat:
    case SYS_mkdirat:
    case SYS_unlinkat:
    case SYS_linkat:
#ifdef SYS_open  // the older calls, which new architectures have not
    case SYS_rename:
    case SYS_mkdir:
    case SYS_rmdir:
    case SYS_unlink:
    case SYS_link:
#endif
      return true;
#ifdef SYS_open
    case SYS_open:
      return (args[1] & O_CREAT) != 0;
#endif
    default:
      return false;
  }
}

// One thread has stopped at a system call, a signal or an event; true if it is about to change a
// file.
bool AtChange(pid_t thread) {
  __ptrace_syscall_info info{};
  if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) <= 0) {
    return false;
  }
  return info.op == PTRACE_SYSCALL_INFO_ENTRY && ChangesFiles(info.entry.nr, info.entry.args);
}

}  // namespace

CrashOutcome RunUntilCall(int64_t crash_at, const std::function<int()>& body) {
  CrashOutcome outcome;
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(125);
    raise(SIGSTOP);
    _exit(body());
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return outcome;
  outcome.traced = true;
  ptrace(PTRACE_SETOPTIONS, child, nullptr,
         PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
  ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  std::set<pid_t> begun = {child};
  for (;;) {
    const pid_t thread = waitpid(-1, &status, __WALL);
    if (thread < 0) return outcome;
    if (!WIFSTOPPED(status)) {
      if (thread != child) continue;  // one of its threads
      outcome.crashed = WIFSIGNALED(status);
      if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
      return outcome;
    }
    int signal = WSTOPSIG(status);
    if (signal == (SIGTRAP | 0x80)) {
      signal = 0;
      if (AtChange(thread) && outcome.calls++ == crash_at) {
        kill(child, SIGKILL);
        continue;
      }
    } else if (signal == SIGTRAP || begun.insert(thread).second) {
      signal = 0;  // a new thread, or its first stop
    }
    ptrace(PTRACE_SYSCALL, thread, nullptr, signal);
  }
}

}  // namespace muster::runtime
