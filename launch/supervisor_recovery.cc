// What a supervisor does after an attempt has failed: it judges, and prepares the next one.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "launch/exit_codes.h"
#include "launch/supervisor.h"
#include "runtime/checkpoint/retention.h"

namespace muster::launch {

using runtime::Action;
using runtime::Decision;
using runtime::Failure;
using runtime::FailureKind;

namespace {

std::string CheckpointsOf(const std::string& run_directory) {
  return run_directory + "/checkpoints";
}

}  // namespace

Decision Supervisor::Judge(const Failure& failure) {
  const int64_t best = std::max(best_step_, detector_->best_step());
  if (failure.kind != FailureKind::kNone) {
    // A start of which nothing is known fails by the hosts that were to blame before it.
    const bool says_nothing = failure.kind == FailureKind::kLaunch && failure.hosts.empty();
    const bool same_hosts = !options_.hosts.in_use().empty() && !blamed_hosts_.empty() &&
                            (says_nothing || failure.hosts == blamed_hosts_);
    if (!says_nothing) blamed_hosts_ = failure.hosts;
    if (failure.kind == FailureKind::kNumerics) {
      const auto saved = runtime::ListCheckpoints(CheckpointsOf(options_.run_directory));
      history_.older_checkpoints = saved.ok() ? static_cast<int>(saved->size()) - 1 : 0;
    }
    history_ = After(history_, {.kind = failure.kind,
                                .first_step = detector_->first_step(),
                                .best_before = best_step_,
                                .best = best,
                                .same_host = same_hosts});
    history_.replaceable = Replaceable(blamed_hosts_);
    const int most = std::min(history_.world_size - 1, options_.hosts.SlotsWithout(blamed_hosts_));
    const bool need = options_.smaller && !history_.replaceable && !blamed_hosts_.empty();
    history_.smaller_world_size = need ? options_.smaller(most) : 0;
  }
  best_step_ = best;
  Decision decision = Decide(failure, history_, options_.recovery);
  const bool lost = failure.exit_code == kExitNotSaved;
  if (stop_signals_ > 0 && (lost || !Ends(decision))) {
    decision = {.action = Action::kStop,
                .exit_code = lost ? kExitNotSaved : kExitRequeue,
                .reason = "asked to stop: no restart"};
  }
  return decision;
}

bool Supervisor::Replaceable(const std::vector<std::string>& hosts) const {
  return !hosts.empty() && options_.hosts.SlotsWithout(hosts) >= history_.world_size;
}

void Supervisor::Apply(const Decision& decision) {
  ++history_.restarts;
  ++attempt_;
  history_.world_size = decision.world_size;
  if (decision.older_checkpoint) SetNewestCheckpointAside();
  if (decision.action == Action::kRestart) return;
  const std::string out = absl::StrJoin(blamed_hosts_, ", ");
  spares_in_ = options_.hosts.Replace(blamed_hosts_, decision.world_size);
  Say(absl::StrCat("out: ", out,
                   spares_in_.empty() ? "; the other hosts go on"
                                      : absl::StrCat("; in: ", absl::StrJoin(spares_in_, ", "))));
  // If they do not even start, it is they.
  blamed_hosts_ = spares_in_;
  history_.failures_of_host = 0;
}

void Supervisor::SetNewestCheckpointAside() {
  const std::string directory = CheckpointsOf(options_.run_directory);
  const absl::StatusOr<std::string> aside =
      runtime::SetNewestAside(runtime::Disk(), directory, attempt_);
  Say(aside.ok() ? absl::StrCat(directory, "/", *aside,
                                " is what the run went on from; look at it, and remove it")
                 : absl::StrCat("the newest checkpoint stays the one to go on from: ",
                                std::string(aside.status().message())));
}

}  // namespace muster::launch
