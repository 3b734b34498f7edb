#include "launch/rank_log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace muster::launch {
namespace {

void WriteAll(int file, const char* data, ssize_t bytes) {
  while (bytes > 0) {
    const ssize_t written = write(file, data, static_cast<size_t>(bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // that side is gone or full; the other one still gets its copy
    data += written;
    bytes -= written;
  }
}

// The child: copies until the last writer of the pipe is gone. Signals that end the rank must not
// end it before it has drained the pipe, and nobody who waits for the end of the rank's other files
// and sockets (a launcher, a peer) must wait for the copier.
[[noreturn]] void Copy(int pipe, int log, int terminal) {
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) {
    signal(signal_number, SIG_IGN);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Via numbers above 2, in case the rank was started with one of the three closed.
  const int high_pipe = fcntl(pipe, F_DUPFD, 3), high_log = fcntl(log, F_DUPFD, 3);
  dup2(terminal, STDERR_FILENO);
  dup2(high_pipe, STDIN_FILENO);
  dup2(high_log, STDOUT_FILENO);
  close_range(STDERR_FILENO + 1, ~0U, 0);
  char buffer[1 << 16];
  while (true) {
    const ssize_t bytes = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) _exit(0);
    WriteAll(STDOUT_FILENO, buffer, bytes);
    WriteAll(STDERR_FILENO, buffer, bytes);
  }
}

absl::Status Failed(const std::string& what) {
  return absl::UnavailableError(absl::StrCat("rank log: ", what, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankLog>> RankLog::Open(const std::string& run_directory, int rank) {
  const std::string directory = absl::StrCat(run_directory, "/logs");
  const std::string path = absl::StrCat(directory, "/rank-", rank, ".log");
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("rank log: cannot make directory ", directory, ": ", error.message()));
  }
  const int log = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) return Failed("cannot open " + path);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    close(log);
    return Failed("cannot make a pipe");
  }
  std::fflush(stderr);
  const int stderr_before = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  // Blocked over the fork: a signal must not find the copier before it ignores signals.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  const pid_t copier = stderr_before < 0 ? -1 : fork();
  if (copier == 0) Copy(ends[0], log, stderr_before);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  close(ends[0]);
  close(log);
  if (copier < 0 || dup2(ends[1], STDERR_FILENO) < 0) {
    close(ends[1]);
    if (stderr_before >= 0) close(stderr_before);
    return Failed("cannot redirect stderr");
  }
  close(ends[1]);
  return std::unique_ptr<RankLog>(new RankLog(path, stderr_before, copier));
}

RankLog::~RankLog() {
  std::fflush(stderr);
  dup2(stderr_before_, STDERR_FILENO);  // closes the pipe's last writer: the copier ends
  close(stderr_before_);
  while (waitpid(copier_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace muster::launch
