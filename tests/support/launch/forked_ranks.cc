#include "tests/support/launch/forked_ranks.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "launch/rank_pulse.h"
#include "parallel/comm/collective_record.h"

namespace muster::launch {
namespace {

std::atomic<bool> stop_requested{false};
std::atomic<int> passed_on{0};

[[noreturn]] void RunRank(const ForkedRanks::Function& function, const StartPlan& plan,
                          const std::string& run_directory, int rank) {
  setpgid(0, 0);  // as Open MPI does
  for (const int number : {SIGTERM, SIGUSR1}) {
    signal(number, [](int) { stop_requested = true; });
  }
  const Environment environment(plan.environment.begin(), plan.environment.end());
  RankEnv env;
  env.rank = rank;
  env.size = plan.num_ranks;
  runtime::RankProgress progress;
  auto pulse = StartPulse(environment, env, {}, &progress);
  if (!pulse.ok()) {
    std::fprintf(stderr, "%s\n", std::string(pulse.status().message()).c_str());
    _exit(1);
  }
  const int attempt = SupervisedStartOf(environment)->value().attempt;
  parallel::CollectiveLog calls;
  (*pulse)->SetEvidence([&] {
    const std::string directory = parallel::HangDirectory(run_directory, attempt);
    (void)parallel::WriteRecord(directory, {.rank = rank,
                                            .world_size = plan.num_ranks,
                                            .host = "here",
                                            .groups = calls.Groups(),
                                            .calls = calls.Entries()});
  });
  const int code = function(
      {rank, attempt, plan.num_ranks, progress, calls, [] { return stop_requested.load(); }});
  (*pulse)->Leave(code);
  _exit(code);
}

[[noreturn]] void RunStarter(const ForkedRanks::Function& function, const StartPlan& plan,
                             const std::string& run_directory, int linger_ms, int start_after_ms) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  signal(SIGUSR1, SIG_IGN);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(start_after_ms));
  signal(SIGUSR1, SIG_DFL);
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < plan.num_ranks; ++rank) {
    ranks.push_back(fork());
    if (ranks.back() == 0) RunRank(function, plan, run_directory, rank);
  }
  struct sigaction action {};
  action.sa_handler = [](int number) { passed_on = number; };  // no SA_RESTART: it wakes waitpid
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
  int code = 0;
  for (size_t left = ranks.size(); left > 0;) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, 0);
    if (const int number = passed_on.exchange(0)) {
      if (number == SIGTERM && linger_ms > 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(linger_ms));
      }
      for (const pid_t rank : ranks) kill(rank, number == SIGTERM ? SIGKILL : number);
    }
    if (ended < 0) continue;
    --left;
    const bool died = WIFSIGNALED(status);
    if (code == 0) code = died ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (died && linger_ms < 0) {
      for (const pid_t rank : ranks) kill(rank, SIGKILL);
    }
  }
  _exit(code);
}

}  // namespace

void ForkedRank::Steps(int64_t first, int64_t last, int each_ms) const {
  for (int64_t step = first; step <= last; ++step) {
    progress.StepBegan(step);
    std::this_thread::sleep_for(std::chrono::milliseconds(each_ms));
    runtime::StepEnd end;
    end.step = step;
    end.time_ns[parallel::kCompute] = each_ms * int64_t{1'000'000};
    progress.StepEnded(end);
  }
  // The supervisor shall have heard of the last one.
  std::this_thread::sleep_for(std::chrono::milliseconds(450));
}

absl::StatusOr<pid_t> ForkedRanks::Start(const StartPlan& plan) {
  const int number = static_cast<int>(plans_.size());
  const bool fails = std::find(fail_.begin(), fail_.end(), number) != fail_.end();
  plans_.push_back(plan);
  const pid_t starter = fork();
  if (starter == 0 && fails) _exit(1);
  if (starter == 0) RunStarter(function_, plan, run_directory_, linger_ms_, start_after_ms_);
  if (starter < 0) return absl::UnavailableError("fork failed");
  setpgid(starter, starter);
  return starter;
}

}  // namespace muster::launch
