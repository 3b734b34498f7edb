#include "runtime/goodput/attempt_end.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/job/exit_code.h"

namespace muster::runtime {
bool FailedBySupervisor(const AttributedAttempt& attempt) {
  return attempt.failure && attempt.failure->kind != FailureKind::kNone &&
         attempt.failure->kind != FailureKind::kPreempted;
}

bool Failed(const AttributedAttempt& attempt) {
  if (attempt.open) return false;
  if (attempt.failure) return FailedBySupervisor(attempt);
  if (!attempt.dead_ranks.empty() || !attempt.exit_code) return true;
  return *attempt.exit_code != 0 && *attempt.exit_code != kExitRequeue;
}

bool Finished(const AttributedAttempt& attempt) {
  return !Failed(attempt) && attempt.dead_ranks.empty() && attempt.exit_code == 0;
}

std::string HowItEnded(const AttributedAttempt& attempt) {
  if (attempt.open) {
    return attempt.supervised ? "under way, or supervisor died" : "under way, or was killed";
  }
  if (FailedBySupervisor(attempt)) {
    const Failure& failure = *attempt.failure;
    if (failure.ranks.empty()) return Name(failure.kind);
    return absl::StrCat(Name(failure.kind), failure.ranks.size() == 1 ? ", rank " : ", ranks ",
                        absl::StrJoin(failure.ranks, " "));
  }
  if (attempt.exit_code && *attempt.exit_code != 0 && *attempt.exit_code != kExitRequeue) {
    if (*attempt.exit_code == kNoExitCode) return "gave up without an exit code";
    return absl::StrCat("exit code ", *attempt.exit_code);
  }
  const size_t dead = attempt.dead_ranks.size();
  if (dead == 1) return absl::StrCat("rank ", attempt.dead_ranks[0], " left no end record");
  if (dead > 1 && dead == static_cast<size_t>(attempt.ranks_with_log)) {
    return "no rank left an end record";
  }
  if (dead > 1) {
    return absl::StrCat(dead, " ranks left no end record, the first is ", attempt.dead_ranks[0]);
  }
  if (attempt.exit_code.value_or(0) == kExitRequeue) return "stopped, may be requeued";
  return attempt.exit_code ? "done" : "no rank left a ledger";
}

std::string ExitsText(const AttributedAttempt& attempt) {
  std::vector<std::string> groups;
  for (size_t i = 0; i < attempt.exits.size();) {
    const RankExit& first = attempt.exits[i];
    std::vector<int> ranks;
    for (; i < attempt.exits.size() && attempt.exits[i].status == first.status &&
           (attempt.exits[i].rank == kStarterRank) == (first.rank == kStarterRank);
         ++i) {
      ranks.push_back(attempt.exits[i].rank);
    }
    const std::string who =
        first.rank == kStarterRank
            ? "the starter"
            : absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, " "));
    const std::string how =
        first.status == kExitNotKnown ? " without a word" : absl::StrCat(" with ", first.status);
    const std::string signal =
        first.status > 128 ? absl::StrCat(" (signal ", first.status - 128, ")") : "";
    groups.push_back(absl::StrCat(who, how, signal));
  }
  return absl::StrJoin(groups, ", ");
}

}  // namespace muster::runtime
