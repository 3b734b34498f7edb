#include "launch/mpi_probe.h"

#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace muster::launch {
namespace {

// Exit statuses of the child: kProvided + level, so that 0 (an exit on MPI's own account) is none.
constexpr int kProvided = 100;

const char* LevelName(int level) {
  if (level == MPI_THREAD_SINGLE) return "MPI_THREAD_SINGLE";
  if (level == MPI_THREAD_FUNNELED) return "MPI_THREAD_FUNNELED";
  if (level == MPI_THREAD_SERIALIZED) return "MPI_THREAD_SERIALIZED";
  return level == MPI_THREAD_MULTIPLE ? "MPI_THREAD_MULTIPLE" : "";
}

[[noreturn]] void Child() {
  // What MPI prints when it cannot start belongs to its administrator; ours is one line.
  const int nowhere = open("/dev/null", O_RDWR);
  dup2(nowhere, STDOUT_FILENO);
  dup2(nowhere, STDERR_FILENO);
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) _exit(1);
  MPI_Finalize();
  _exit(kProvided + provided);
}

}  // namespace

MpiFacts ProbeMpi() {
  MpiFacts facts;
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  if (MPI_Get_library_version(version, &length) == MPI_SUCCESS) {
    facts.library = std::string(version);
    facts.library = facts.library.substr(0, facts.library.find('\n'));
  }
  const pid_t child = fork();
  if (child < 0) return facts;
  if (child == 0) Child();
  int status = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return facts;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) >= kProvided) {
    facts.thread_level = LevelName(WEXITSTATUS(status) - kProvided);
  }
  return facts;
}

}  // namespace muster::launch
