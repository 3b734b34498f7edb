#include "launch/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "launch/exit_codes.h"
#include "launch/open_files.h"
#include "launch/process_space.h"
#include "runtime/fault/pulse.h"
#include "runtime/job/file_error.h"

namespace muster::launch {

using kernels::MonotonicNs;
using runtime::Action;
using runtime::Decision;
using runtime::Failure;
using runtime::FailureKind;

namespace {

constexpr std::chrono::milliseconds kLockPatience{1000};  // for a supervisor that is about to end
constexpr int kLookEveryMs = 50;

int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

int CodeOf(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

}  // namespace

// Signals come through a file descriptor, between two looks at the job, never in the middle of
// something.
class Supervisor::SignalGuard {
 public:
  SignalGuard() {
    sigset_t mask;
    sigemptyset(&mask);
    for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&mask, number);
    pthread_sigmask(SIG_BLOCK, &mask, &before_);
    fd_ = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  ~SignalGuard() {
    if (fd_ >= 0) close(fd_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;
  int fd() const { return fd_; }

 private:
  sigset_t before_;
  int fd_ = -1;
};

Supervisor::Supervisor(SupervisorOptions options, HostStart& start, std::ostream& say)
    : options_(std::move(options)), start_(start), say_(say) {}

Supervisor::~Supervisor() {
  if (starter_ > 0) {
    kill(-starter_, SIGKILL);
    waitpid(starter_, nullptr, 0);
  }
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(SupervisorOptions options,
                                                               HostStart& start,
                                                               std::ostream& say) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(std::move(options), start, say));
  RETURN_IF_ERROR(supervisor->Open());
  return supervisor;
}

absl::Status Supervisor::Open() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  options_.begin.host = name;
  process_space_ = ProcessSpace();
  std::error_code error;
  std::filesystem::create_directories(options_.run_directory, error);
  if (error) {
    return runtime::FileError("make the run directory " + options_.run_directory, error.value());
  }
  ASSIGN_OR_RETURN(
      lock_, runtime::RunLock::Take(options_.run_directory, kLockPatience,
                                    /*start=*/std::nullopt, runtime::RunLock::Of::kSupervisor));
  RETURN_IF_ERROR(AllowOpenFilesFor(options_.num_ranks));
  ASSIGN_OR_RETURN(
      server_, runtime::HeartbeatServer::Listen(options_.interface, runtime::RunSecret::Draw()));
  ASSIGN_OR_RETURN(const int next_epoch, runtime::NextEpoch(options_.run_directory));
  attempt_ = std::max(next_epoch, runtime::NextAttempt(options_.run_directory));
  ASSIGN_OR_RETURN(ledger_,
                   runtime::SupervisorLedger::Create(options_.run_directory, options_.begin));
  if (!options_.step_times.empty()) {
    ASSIGN_OR_RETURN(step_times_, StepTimesFile::Create(options_.step_times));
  }
  history_.world_size = options_.num_ranks;
  signals_ = std::make_unique<SignalGuard>();
  if (signals_->fd() < 0) return absl::UnavailableError("cannot listen to signals");
  return absl::OkStatus();
}

int Supervisor::Run() {
  while (true) {
    const Failure failure = RunAttempt();
    const Decision decision = Judge(failure);
    const int exit_code = Ends(decision) ? decision.exit_code : failure.exit_code;
    if (failure.kind != FailureKind::kNone) {
      Say(explanation_.empty() ? decision.reason
                               : absl::StrCat(explanation_, ": ", decision.reason));
    }
    for (const int64_t end = MonotonicNs() + Ns(decision.backoff_seconds);
         MonotonicNs() < end && stop_signals_ == 0;) {
      Wait(kLookEveryMs);
      Hear();  // what is unread would end each wait at once
    }
    // Back-off is the failed attempt's, and a request to stop ends it.
    const bool stopped = !Ends(decision) && stop_signals_ > 0;
    ledger_->AttemptEnd(attempt_, exit_code, stopped ? Action::kStop : decision.action);
    if (stopped) return failure.exit_code == kExitNotSaved ? kExitNotSaved : kExitRequeue;
    if (Ends(decision)) return decision.exit_code;
    Apply(decision);
  }
}

// From the start of the ranks to the moment when all are gone.
Failure Supervisor::RunAttempt() {
  const int num_ranks = history_.world_size;
  ledger_->AttemptBegin(attempt_, num_ranks);
  std::vector<runtime::AttemptHost> hosts = options_.hosts.Allocated(num_ranks);
  if (hosts.empty()) {  // this one alone
    hosts.push_back({.name = options_.begin.host, .devices = num_ranks, .ranks = num_ranks});
  }
  for (const runtime::AttemptHost& host : hosts) ledger_->Host(attempt_, host);
  for (const std::string& spare : std::exchange(spares_in_, {})) ledger_->SpareIn(attempt_, spare);
  lock_->SignAttempt(attempt_);
  server_->Expect(attempt_, num_ranks);
  runtime::DetectorOptions detector = options_.detector;
  detector.host_of_rank = PlaceRanks(options_.hosts.in_use(), num_ranks);
  detector.process_space = process_space_;
  if (options_.stages) detector.straggler.stage = options_.stages(num_ranks);
  detector_.emplace(detector, num_ranks, MonotonicNs());
  stop_deadline_ns_ = 0;
  all_were_asked_ = false;
  explanation_.clear();
  StartPlan plan{.command = options_.command(num_ranks),
                 .num_ranks = num_ranks,
                 .host_of_rank = detector.host_of_rank,
                 .environment = {{runtime::kSupervisorVariable, server_->address()},
                                 {runtime::kSecretVariable, server_->secret().Hex()},
                                 {runtime::kLaunchVariable, absl::StrCat(ledger_->number())},
                                 {runtime::kAttemptVariable, absl::StrCat(attempt_)}}};
  const absl::StatusOr<pid_t> started = start_.Start(plan);
  Failure failure;
  if (started.ok()) {
    starter_ = *started;
    ledger_->Spawn(attempt_, starter_);
    Say(absl::StrFormat("attempt %d: %d ranks, started by process %d", attempt_, num_ranks,
                        starter_));
    failure = Watch();
  } else {
    failure.kind = FailureKind::kUsage;
    failure.evidence = std::string(started.status().message());
    failure.happened_ns = failure.detected_ns = MonotonicNs();
  }
  if (failure.kind != FailureKind::kNone && failure.kind != FailureKind::kStraggler) {
    ledger_->Detect(attempt_, failure);  // now: this process may be next to die
    Say(absl::StrFormat("%s: %s; noticed after %.2f s", Name(failure.kind), failure.evidence,
                        static_cast<double>(failure.detected_ns - failure.happened_ns) * 1e-9));
  }
  if (failure.kind == FailureKind::kCrash) AwaitItsHost(&failure);
  Explain(&failure);
  Teardown(failure);
  const Failure before = failure;
  Complete(&failure);
  if (failure.exit_code != before.exit_code) ledger_->Detect(attempt_, failure);
  return failure;
}

Failure Supervisor::Watch() {
  while (true) {
    if (std::optional<Failure> failure = Look()) return *std::move(failure);
    Wait(kLookEveryMs);
  }
}

// One look at the job: why it ended, if it did.
std::optional<Failure> Supervisor::Look() {
  for (const runtime::RankEvent& event : Hear()) {
    detector_->See(event);
    if (step_times_) step_times_->See(event);
  }
  Reap();
  ledger_->Flush();
  const int64_t now = MonotonicNs();
  if (starter_ < 0) detector_->SeeExit(starter_status_, now);
  std::optional<Failure> failure = detector_->Check(now);
  if (!failure) NameStragglers(now, &failure);
  HandleStop(now, &failure);
  return failure;
}

// What ranks have said, their ends last: an end is judged by what is known of all of them. Ends go
// to the ledger as they come.
std::vector<runtime::RankEvent> Supervisor::Hear() {
  std::vector<runtime::RankEvent> events = server_->Collect();
  const auto goes_on = [](const runtime::RankEvent& event) {
    return event.kind == runtime::RankEvent::Kind::kFrame &&
           event.frame.type != runtime::Frame::Type::kGoodbye;
  };
  const auto first_end = std::stable_partition(events.begin(), events.end(), goes_on);
  for (auto end = first_end; end != events.end(); ++end) {
    const bool said_goodbye = end->kind == runtime::RankEvent::Kind::kFrame;
    ledger_->Exit(attempt_, end->rank,
                  said_goodbye ? end->frame.exit_code : runtime::kExitNotKnown);
  }
  return events;
}

void Supervisor::NameStragglers(int64_t now_ns, std::optional<Failure>* failure) {
  while (const std::optional<Failure> slow = detector_->NewStraggler(now_ns)) {
    ledger_->Detect(attempt_, *slow);
    Say(slow->evidence);
    runtime::AttemptHistory history = history_;
    history.replaceable = Replaceable(slow->hosts);
    const bool ends = Decide(*slow, history, options_.recovery).action != Action::kContinue;
    if (ends && stop_signals_ == 0) *failure = slow;  // else its last save is worth more
  }
}

// Passes a request to stop on. A starter forgets it if it has not started the ranks yet, so they
// are asked once more when all are there.
void Supervisor::AskToStop(int64_t now_ns) {
  if (all_were_asked_) return;
  all_were_asked_ = detector_->all_spoke();
  if (stop_deadline_ns_ != 0 && !all_were_asked_) return;
  if (stop_deadline_ns_ == 0) {
    stop_deadline_ns_ = now_ns + Ns(options_.stop_grace_seconds);
    Say("asked to stop: the ranks save and end");
  }
  if (starter_ > 0) kill(starter_, SIGUSR1);  // not the group: the starter passes it on
}

// Ends ranks that take too long over a request to stop.
void Supervisor::HandleStop(int64_t now_ns, std::optional<Failure>* failure) {
  if (stop_signals_ == 0 || *failure) return;
  AskToStop(now_ns);
  if (now_ns < stop_deadline_ns_ && !kill_now_) return;
  failure->emplace();
  (*failure)->kind = FailureKind::kPreempted;
  (*failure)->evidence =
      kill_now_ ? "interrupted twice: ended without a save"
                : absl::StrFormat("the ranks did not stop within %.0f s of being asked",
                                  options_.stop_grace_seconds);
  (*failure)->happened_ns = (*failure)->detected_ns = now_ns;
}

void Supervisor::Wait(int milliseconds) {
  std::array<pollfd, 2> waiting = {{{.fd = signals_->fd(), .events = POLLIN, .revents = 0},
                                    {.fd = server_->fd(), .events = POLLIN, .revents = 0}}};
  poll(waiting.data(), waiting.size(), milliseconds);
  ReadSignals();
}

void Supervisor::ReadSignals() {
  signalfd_siginfo info;
  while (read(signals_->fd(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGCHLD) continue;  // only wakes us up
    if (info.ssi_signo == SIGINT && stop_signals_ > 0) kill_now_ = true;
    ++stop_signals_;
  }
}

void Supervisor::Reap() {
  int status = 0;
  if (starter_ <= 0 || waitpid(starter_, &status, WNOHANG) != starter_) return;
  starter_ = -1;
  starter_status_ = CodeOf(status);
  ledger_->Exit(attempt_, runtime::kStarterRank, starter_status_);
}

void Supervisor::Say(const std::string& text) const {
  say_ << "muster launch: " << text << std::endl;
}

}  // namespace muster::launch
