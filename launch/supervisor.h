#pragma once
// Keeps a job running: start -> watch -> name what went wrong, and for a hang gather why -> end
// what is left -> decide -> start again. It writes the ledger's other half, restarts ranks from the
// newest checkpoint, and ends with an exit code that a scheduler can act on (launch/exit_codes.h).
// SIGTERM, SIGINT and SIGUSR1 ask the job to save and stop; a second SIGINT kills it. If the
// supervisor itself dies, its starter gets SIGTERM and each rank finds its connection closed: all
// end within 2 s, and what is committed stays. Ranks that cannot reach it any more end by
// themselves (runtime/fault/pulse.h), and those on hosts that it takes for lost are fenced by the
// epoch.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "launch/host_start.h"
#include "launch/hosts.h"
#include "launch/step_times.h"
#include "runtime/fault/detector.h"
#include "runtime/fault/heartbeat_server.h"
#include "runtime/fault/policy.h"
#include "runtime/goodput/supervisor_ledger.h"
#include "runtime/job/run_lock.h"

namespace muster::launch {

struct SupervisorOptions {
  std::string run_directory;
  int num_ranks = 1;
  // The command line of a rank in a world of that size.
  std::function<std::vector<std::string>(int num_ranks)> command;
  // The largest world of at most so many ranks that may and can be used instead; 0: none. May be
  // null.
  std::function<int(int most_ranks)> smaller;
  // The pipeline stage of each rank of such a world: ranks of one are compared. May be null: all
  // are.
  std::function<std::vector<int>(int num_ranks)> stages;
  HostPool hosts;
  std::string interface = "127.0.0.1";  // the address that ranks connect to
  runtime::RecoveryOptions recovery;
  runtime::DetectorOptions detector;
  runtime::SupervisorBegin begin;
  std::string step_times;  // a file for each rank's work in each step; "": none
  // From a request to stop to the end of the save. Ranks that hang are found by their deadlines.
  double stop_grace_seconds = 120;
  double kill_grace_seconds = 0.3;  // from SIGTERM to SIGKILL
};

class Supervisor {
 public:
  // `start` and `say` outlive it. Blocks SIGTERM, SIGINT, SIGUSR1 and SIGCHLD in this thread until
  // its end; no other thread may run. Errors: the run directory or the address cannot be used;
  // another supervisor has the run.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(SupervisorOptions options,
                                                            HostStart& start, std::ostream& say);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Returns the exit code.
  int Run();

 private:
  class SignalGuard;
  Supervisor(SupervisorOptions options, HostStart& start, std::ostream& say);
  absl::Status Open();
  runtime::Failure RunAttempt();
  runtime::Failure Watch();
  std::optional<runtime::Failure> Look();
  std::vector<runtime::RankEvent> Hear();
  void AwaitItsHost(runtime::Failure* crash);
  void NameStragglers(int64_t now_ns, std::optional<runtime::Failure>* failure);
  void AskToStop(int64_t now_ns);
  void HandleStop(int64_t now_ns, std::optional<runtime::Failure>* failure);
  void Wait(int milliseconds);  // for a rank, a signal or the starter's end
  void ReadSignals();
  void Reap();
  void Explain(runtime::Failure* failure);
  void Teardown(const runtime::Failure& failure);
  void KillRanks();
  void Complete(runtime::Failure* failure) const;
  runtime::Decision Judge(const runtime::Failure& failure);
  bool Replaceable(const std::vector<std::string>& hosts) const;
  void Apply(const runtime::Decision& decision);
  void SetNewestCheckpointAside();
  void Say(const std::string& text) const;

  SupervisorOptions options_;
  HostStart& start_;
  std::ostream& say_;
  uint64_t process_space_ = 0;
  std::unique_ptr<runtime::RunLock> lock_;
  std::unique_ptr<SignalGuard> signals_;
  std::unique_ptr<runtime::HeartbeatServer> server_;
  std::unique_ptr<runtime::SupervisorLedger> ledger_;
  std::unique_ptr<StepTimesFile> step_times_;  // nullptr: nobody asked for it
  runtime::AttemptHistory history_;
  std::vector<std::string> blamed_hosts_;  // by the last failure; or new ones, until they run
  std::vector<std::string> spares_in_;     // since the last attempt began
  int64_t best_step_ = 0;
  int stop_signals_ = 0;
  bool kill_now_ = false;

  // Of the attempt under way.
  int attempt_ = 0;
  std::optional<runtime::Detector> detector_;
  pid_t starter_ = -1;            // -1: it has ended
  int starter_status_ = 0;        // 128 + signal, if one ended it
  std::string explanation_;       // of its hang, in a line
  int64_t stop_deadline_ns_ = 0;  // 0: nobody has asked the ranks to stop
  bool all_were_asked_ = false;   // all ranks were there to hear it
};

}  // namespace muster::launch
