#pragma once
// Starts "ranks" that are functions of the test, in processes of their own: a process that stands
// for mpirun forks them, passes SIGUSR1 and SIGTERM on, and when one dies ends the others, as Open
// MPI's mpirun does.
#include <functional>
#include <string>
#include <vector>

#include "launch/host_start.h"
#include "parallel/comm/collective_log.h"
#include "runtime/goodput/rank_progress.h"

namespace muster::launch {

struct ForkedRank {
  int rank = 0, attempt = 0, num_ranks = 1;
  runtime::RankProgress& progress;
  parallel::CollectiveLog& calls;  // written down when the supervisor asks for evidence
  std::function<bool()> asked_to_stop;
  void Steps(int64_t first, int64_t last, int each_ms = 20) const;
};

class ForkedRanks : public HostStart {
 public:
  using Function = std::function<int(const ForkedRank&)>;  // returns the rank's exit code
  // `fail`: the starts, counted from 0, of which no rank comes up.
  explicit ForkedRanks(Function function, std::string run_directory = "",
                       std::vector<int> fail = {})
      : function_(std::move(function)),
        run_directory_(std::move(run_directory)),
        fail_(std::move(fail)) {}
  // When one dies, the others live on until the supervisor ends the job, and then so long.
  void LeaveOthersAlive(int linger_ms) { linger_ms_ = linger_ms; }
  // The process that starts them takes so long before it does, and forgets the signals of that
  // time.
  void StartAfter(int ms) { start_after_ms_ = ms; }
  absl::StatusOr<pid_t> Start(const StartPlan& plan) override;
  const std::vector<StartPlan>& plans() const { return plans_; }

 private:
  Function function_;
  const std::string run_directory_;
  const std::vector<int> fail_;
  int linger_ms_ = -1;  // at once
  int start_after_ms_ = 0;
  std::vector<StartPlan> plans_;
};

}  // namespace muster::launch
