#include "runtime/fault/pulse.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "kernels/base/log.h"

namespace muster::runtime {
namespace {

constexpr int64_t kLeastIntervalMs = 20;
constexpr int kConnectMs = 5'000;
// A frame that the supervisor does not take for so long will not be taken.
constexpr timeval kSendTimeout{.tv_sec = 2, .tv_usec = 0};

absl::StatusOr<sockaddr_in> Parse(const std::string& address) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  const size_t colon = address.rfind(':');
  int port = 0;
  const bool good = colon != std::string::npos &&
                    absl::SimpleAtoi(address.substr(colon + 1), &port) && port > 0 &&
                    port < 65536 &&
                    inet_pton(AF_INET, address.substr(0, colon).c_str(), &where.sin_addr) == 1;
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat("environment variable ", kSupervisorVariable, "='", address,
                     "': wanted address and port, as 127.0.0.1:40123"));
  }
  where.sin_port = htons(static_cast<uint16_t>(port));
  return where;
}

absl::Status Unreachable(const std::string& address, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("the supervisor at ", address, " cannot be reached: ", why,
                   "; if it is on another host, start muster launch with --interface ADDRESS"));
}

// Waits for the greeting; returns its nonce.
absl::StatusOr<std::string> AwaitGreeting(int socket, const std::string& address) {
  GreetingBytes greeting;
  size_t used = 0;
  while (used < greeting.size()) {
    pollfd waiting{.fd = socket, .events = POLLIN, .revents = 0};
    const int ready = poll(&waiting, 1, kConnectMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Unreachable(address, "it does not greet");
    const ssize_t got = recv(socket, greeting.data() + used, greeting.size() - used, 0);
    if (got <= 0) return Unreachable(address, "it closed the connection");
    used += static_cast<size_t>(got);
  }
  std::optional<std::string> nonce = DecodeGreeting({greeting.data(), greeting.size()});
  if (!nonce) return Unreachable(address, "whoever listens there is no supervisor of ours");
  return *std::move(nonce);
}

// TCP would go on for a quarter of an hour, at growing distances. The socket's owner shall hear of
// it in time, and a network that was gone for a moment shall be tried again soon.
bool GiveUpAfter(int socket, int unreachable_ms) {
  const unsigned int user_timeout = static_cast<unsigned int>(unreachable_ms);
  const int on = 1;
  return setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout)) ==
             0 &&
         setsockopt(socket, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, &on, sizeof(on)) == 0;
}

absl::StatusOr<int> Connect(const std::string& address, int unreachable_ms) {
  ASSIGN_OR_RETURN(const sockaddr_in where, Parse(address));
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return Unreachable(address, std::strerror(errno));
  const timeval deadline{.tv_sec = kConnectMs / 1000, .tv_usec = 0};
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline));  // for connect, too
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(socket, reinterpret_cast<const sockaddr*>(&where), sizeof(where)) != 0) {
    const std::string why = std::strerror(errno);
    close(socket);
    return Unreachable(address, why);
  }
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &kSendTimeout, sizeof(kSendTimeout));
  if (!GiveUpAfter(socket, unreachable_ms)) {
    const std::string why = std::strerror(errno);
    close(socket);
    return Unreachable(address, absl::StrCat("TCP_USER_TIMEOUT cannot be set: ", why));
  }
  return socket;
}

void EndThisProcess(bool dismissed) {
  if (!dismissed) {
    kernels::Log(
        kernels::Severity::kError,
        "the supervisor is gone or cannot be reached, so this rank ends; what is committed "
        "stays, and muster launch with the same --run goes on from it");
  }
  _exit(1);  // no destructor: they would wait for other ranks
}

}  // namespace

absl::StatusOr<std::unique_ptr<Pulse>> Pulse::Start(PulseOptions options, RankProgress* progress) {
  if (!options.on_supervisor_lost) options.on_supervisor_lost = EndThisProcess;
  int socket = -1;
  std::string key;
  if (options.supervisor) {
    ASSIGN_OR_RETURN(socket, Connect(options.supervisor->address, options.unreachable_ms));
    const absl::StatusOr<std::string> nonce = AwaitGreeting(socket, options.supervisor->address);
    if (!nonce.ok()) {
      close(socket);
      return nonce.status();
    }
    key = ConnectionKey(options.supervisor->secret, *nonce);
  }
  std::unique_ptr<Pulse> pulse(new Pulse(std::move(options), progress, socket, std::move(key)));
  if (socket >= 0 && !pulse->Send(Frame::Type::kHello, 0)) {
    return Unreachable(pulse->options_.supervisor->address, "it takes no frame");
  }
  // Signals are for other threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pulse->keeps_ledger_ = std::thread([p = pulse.get()] { p->KeepLedger(); });
  if (socket >= 0) pulse->tells_ = std::thread([p = pulse.get()] { p->Tell(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return pulse;
}

Pulse::Pulse(PulseOptions options, RankProgress* progress, int socket, std::string key)
    : options_(std::move(options)), progress_(*progress), socket_(socket), key_(std::move(key)) {}

Pulse::~Pulse() {
  if (keeps_ledger_.joinable()) Leave(1);
  if (socket_ >= 0) close(socket_);
}

void Pulse::SetDoing(std::function<std::string()> doing) {
  const std::lock_guard lock(mutex_);
  doing_ = std::move(doing);
}

void Pulse::SetEvidence(std::function<void()> evidence) {
  const std::lock_guard lock(mutex_);
  evidence_ = std::move(evidence);
}

void Pulse::Leave(int exit_code) {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  for (std::thread* thread : {&keeps_ledger_, &tells_}) {
    if (thread->joinable()) thread->join();
  }
  if (socket_ >= 0) Send(Frame::Type::kGoodbye, exit_code);
}

bool Pulse::LeavesWithin(int milliseconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(milliseconds),
                           [this] { return leaving_; });
}

void Pulse::KeepLedger() {
  while (!LeavesWithin(2 * HalfIntervalMs())) progress_.Beat();
}

// Half of the time it waits on the socket, for the supervisor's end, half on the condition: so it
// notices both that it shall leave and that the supervisor is gone within one interval.
void Pulse::Tell() {
  while (!LeavesWithin(HalfIntervalMs())) {
    Supervisor supervisor = Supervisor::kGone;
    if (Send(Frame::Type::kBeat, 0)) supervisor = Listen(HalfIntervalMs());
    if (supervisor == Supervisor::kThere) continue;
    if (!LeavesWithin(0)) options_.on_supervisor_lost(supervisor == Supervisor::kDismisses);
    return;
  }
}

// Of short steps no more may end between two beats than a frame holds.
int Pulse::HalfIntervalMs() const {
  const int64_t step_ns = progress_.facts().last_step_ns;
  if (step_ns == 0) return options_.interval_ms / 2;
  const int64_t ms = step_ns * static_cast<int64_t>(kStepsRemembered / 2) / 1'000'000;
  return static_cast<int>(std::min<int64_t>(std::max(ms, kLeastIntervalMs), options_.interval_ms)) /
         2;
}

Pulse::Supervisor Pulse::Listen(int wait_ms) {
  pollfd waiting{.fd = socket_, .events = POLLIN | POLLRDHUP, .revents = 0};
  if (poll(&waiting, 1, wait_ms) <= 0) return Supervisor::kThere;  // silent, as it should be
  char byte = 0;
  const ssize_t got = recv(socket_, &byte, 1, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Supervisor::kThere;
  if (got == 1 && byte == kDismissal) return Supervisor::kDismisses;
  if (got != 1 || byte != kEvidenceRequest) return Supervisor::kGone;
  const std::lock_guard lock(mutex_);
  if (evidence_) evidence_();
  return Supervisor::kThere;
}

bool Pulse::Send(Frame::Type type, int exit_code) {
  const ProgressFacts facts = progress_.facts();
  Frame frame{.type = type,
              .attempt = options_.attempt,
              .rank = options_.rank,
              .world_size = options_.world_size,
              .pid = static_cast<int32_t>(getpid()),
              .exit_code = exit_code,
              .sequence = sequence_++,
              .state = facts.state,
              .step = facts.step,
              .steps_done = facts.steps_done,
              .step_ns = facts.step_ns,
              .last_step_ns = facts.last_step_ns,
              .work = facts.work,
              .process_space = options_.process_space,
              .host = options_.host,
              .doing = ""};
  if (type == Frame::Type::kBeat) {
    const std::lock_guard lock(mutex_);
    if (doing_) frame.doing = doing_();
  }
  const FrameBytes bytes = EncodeFrame(frame, key_);
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t taken = send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (taken < 0 && errno == EINTR) continue;
    if (taken <= 0) return false;
    sent += static_cast<size_t>(taken);
  }
  return true;
}

}  // namespace muster::runtime
