#include "runtime/goodput/run_log.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::runtime {
namespace {

absl::Status CheckRank(const AttemptLog& attempt, const RankLog& rank) {
  const std::string where =
      absl::StrCat("ledger of attempt ", attempt.attempt, ", rank ", rank.rank, ": ");
  if (rank.rank < 0 || rank.rank >= attempt.world_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, "the rank is not within a world of ", attempt.world_size));
  }
  int64_t before = rank.process_start_ns;
  for (size_t i = 0; i < rank.phases.size(); ++i) {
    const Phase& phase = rank.phases[i];
    const int64_t end = i + 1 < rank.phases.size() ? rank.phases[i + 1].begin_ns : rank.end_ns;
    if (phase.begin_ns < before || end < phase.begin_ns) {
      return absl::InvalidArgumentError(absl::StrCat(where, "phase ", i, " runs backwards"));
    }
    before = phase.begin_ns;
    if (phase.state != State::kStep) continue;
    if (phase.step_index < 0 || phase.step_index >= static_cast<int>(rank.steps.size())) {
      return absl::InvalidArgumentError(absl::StrCat(where, "phase ", i, " names no step"));
    }
    const StepExecution& step = rank.steps[phase.step_index];
    const auto sum = std::accumulate(step.time_ns.begin(), step.time_ns.end(), __int128{0});
    if (step.finished && sum != end - phase.begin_ns) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "the parts of step ", step.step, " do not sum to its time"));
    }
  }
  if (rank.end_ns < before) return absl::InvalidArgumentError(where + "it ends before it begins");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRunLog(const RunLog& log) {
  for (size_t a = 0; a < log.attempts.size(); ++a) {
    const AttemptLog& attempt = log.attempts[a];
    const std::string where = absl::StrCat("ledger of attempt ", attempt.attempt, ": ");
    if (a > 0 && attempt.attempt <= log.attempts[a - 1].attempt) {
      return absl::InvalidArgumentError(where + "attempts are not in the order of their numbers");
    }
    if (attempt.ranks.empty() && !(attempt.begin_ns && attempt.end_ns)) {
      return absl::InvalidArgumentError(where + "neither a rank nor a supervisor tells its length");
    }
    for (size_t r = 0; r < attempt.ranks.size(); ++r) {
      RETURN_IF_ERROR(CheckRank(attempt, attempt.ranks[r]));
      if (r > 0 && attempt.ranks[r].rank <= attempt.ranks[r - 1].rank) {
        return absl::InvalidArgumentError(where + "ranks are not in order, each once");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
