#pragma once
// A rank's heartbeat: a thread that keeps the rank's ledger alive (a record at most 0.5 s apart)
// and, if a supervisor started the rank, another that tells it how far the rank is, also while a
// disk takes no record. When the supervisor's end of
// the connection closes, the supervisor has ended this attempt or is dead; when its host takes
// nothing any more, this rank is cut off, and may have been replaced. In both cases nobody would
// restart or account for it: it ends at once. A checkpoint that is not committed by then is a
// leftover, one that is stays.
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "runtime/fault/heartbeat_frame.h"
#include "runtime/goodput/rank_progress.h"

namespace muster::runtime {

struct SupervisorAddress {
  std::string address;  // "127.0.0.1:40123"
  RunSecret secret;
};

struct PulseOptions {
  std::optional<SupervisorAddress> supervisor;  // none: only the ledger is kept alive
  int attempt = 0, rank = 0, world_size = 1;
  std::string host;
  uint64_t process_space = 0;  // see Frame
  int interval_ms = 200;       // between beats; less for steps below 25 ms
  // For how long the supervisor's host may confirm nothing of what was sent before it is taken for
  // gone: above the time in which a supervisor takes a silent host for lost, since a network that
  // comes back in between shall disturb nobody.
  int unreachable_ms = 6'000;
  // On the thread that tells it, when the supervisor is gone, or has dismissed its ranks. The
  // default ends the process, and says why unless it was dismissed.
  std::function<void(bool dismissed)> on_supervisor_lost;
};

class Pulse {
 public:
  // `progress` outlives it. Errors: the supervisor cannot be reached, or does not greet, within 5
  // s.
  static absl::StatusOr<std::unique_ptr<Pulse>> Start(PulseOptions options, RankProgress* progress);
  // As Leave(1), if Leave was not called: a rank that unwinds before its end.
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  // What the rank waits for, asked at each beat on the thread that tells. nullptr: not known any
  // more.
  void SetDoing(std::function<std::string()> doing);
  // Called on the thread that tells when the supervisor takes the job for hung, to write down what
  // this rank is doing before it is killed. nullptr: nothing any more.
  void SetEvidence(std::function<void()> evidence);
  // Says goodbye with the exit code that this process will have. The supervisor then takes the
  // closed connection for what it is. Call it once.
  void Leave(int exit_code);

 private:
  Pulse(PulseOptions options, RankProgress* progress, int socket, std::string key);
  void KeepLedger();
  void Tell();
  bool LeavesWithin(int milliseconds);
  bool Send(Frame::Type type, int exit_code);
  enum class Supervisor { kThere, kGone, kDismisses };
  Supervisor Listen(int wait_ms);
  int HalfIntervalMs() const;

  const PulseOptions options_;
  RankProgress& progress_;
  const int socket_;  // -1: no supervisor
  const std::string key_;
  uint64_t sequence_ = 0;  // of the thread that tells, and Leave's once that has ended

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::function<std::string()> doing_;
  std::function<void()> evidence_;
  bool leaving_ = false;
  std::thread keeps_ledger_, tells_;  // the second one only if there is a supervisor
};

// How a supervisor tells its ranks where it is: never on a command line, which others can read.
constexpr char kSupervisorVariable[] = "MUSTER_SUPERVISOR";
constexpr char kSecretVariable[] = "MUSTER_SUPERVISOR_SECRET";
constexpr char kAttemptVariable[] = "MUSTER_ATTEMPT";
constexpr char kLaunchVariable[] = "MUSTER_LAUNCH";  // the supervisor's own number

}  // namespace muster::runtime
