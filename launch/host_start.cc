#include "launch/host_start.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/host_facts.h"

namespace muster::launch {
namespace {

// In the child: all memory was allocated before the fork.
[[noreturn]] void Become(const std::vector<char*>& arguments, char** environment, int error_pipe,
                         pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);  // it died before the line above
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int nowhere = open("/dev/null", O_RDONLY);
  if (nowhere >= 0) dup2(nowhere, STDIN_FILENO);
  execvpe(arguments[0], arguments.data(), environment);
  const int error = errno;
  if (write(error_pipe, &error, sizeof(error)) < 0) _exit(126);
  _exit(127);
}

std::vector<std::string> Environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text(*entry);
    if (!added.contains(text.substr(0, text.find('=')))) all.push_back(text);
  }
  for (const auto& [name, value] : added) all.push_back(absl::StrCat(name, "=", value));
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>* texts) {
  std::vector<char*> pointers;
  for (std::string& text : *texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& arguments,
                                   const std::map<std::string, std::string>& environment) {
  std::vector<std::string> words = arguments, variables = Environment(environment);
  const std::vector<char*> argv = Pointers(&words);
  const std::vector<char*> envp = Pointers(&variables);
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return absl::UnavailableError(std::strerror(errno));
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) Become(argv, const_cast<char**>(envp.data()), pipe_ends[1], parent);
  close(pipe_ends[1]);
  int error = child < 0 ? errno : 0;
  if (child > 0) {
    setpgid(child, child);  // whoever of the two is first
    ssize_t got;
    do {
      got = read(pipe_ends[0], &error, sizeof(error));
    } while (got < 0 && errno == EINTR);
    if (got != sizeof(error)) error = 0;  // closed by the exec: it runs
  }
  close(pipe_ends[0]);
  if (error == 0) return child;
  if (child > 0) waitpid(child, nullptr, 0);
  return absl::NotFoundError(absl::StrCat("cannot run ", arguments[0], ": ", std::strerror(error)));
}

std::vector<std::string> MpirunArguments(const StartPlan& plan, const StarterFacts& facts) {
  std::vector<std::string> arguments = {"mpirun"};
  if (facts.is_root) arguments.push_back("--allow-run-as-root");
  if (plan.host_of_rank.empty()) {
    arguments.push_back("--oversubscribe");
    if (plan.num_ranks > facts.usable_cpus) {
      // Ranks share cores: none may keep one while it waits.
      for (const char* word : {"--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"}) {
        arguments.push_back(word);
      }
    }
  } else {
    // A rank an entry, in their order. Any other mapping puts the host that mpirun runs on first.
    arguments.insert(arguments.end(),
                     {"--map-by", "seq", "--host", absl::StrJoin(plan.host_of_rank, ",")});
  }
  for (const auto& [name, value] : plan.environment)
    arguments.insert(arguments.end(), {"-x", name});
  arguments.insert(arguments.end(), {"-np", absl::StrCat(plan.num_ranks)});
  arguments.insert(arguments.end(), plan.command.begin(), plan.command.end());
  return arguments;
}

absl::StatusOr<pid_t> MpirunStart::Start(const StartPlan& plan) {
  const StarterFacts facts{.is_root = geteuid() == 0, .usable_cpus = UsableCpus()};
  absl::StatusOr<pid_t> started = StartProcess(MpirunArguments(plan, facts), plan.environment);
  if (started.ok()) return started;
  return absl::NotFoundError(absl::StrCat(std::string(started.status().message()),
                                          "; muster launch needs Open MPI (see muster doctor)"));
}

}  // namespace muster::launch
