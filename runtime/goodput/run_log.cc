#include "runtime/goodput/run_log.h"

#include <map>
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

// Where in the data each step begins, as the attempts before say.
using StepPlaces = std::map<int64_t, int64_t>;

absl::Status CheckPlaces(const AttemptLog& attempt, StepPlaces* places) {
  StepPlaces here;
  for (const RankLog& rank : attempt.ranks) {
    for (const StepExecution& step : rank.steps) {
      if (step.finished && step.num_sequences > 0) here.emplace(step.step, step.first_sequence);
    }
  }
  if (here.empty()) return absl::OkStatus();
  const auto& [step, sequence] = *here.begin();
  const auto before = places->find(step);
  if (before != places->end() && before->second != sequence) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ledger of attempt ", attempt.attempt, ": its first step, ", step,
        ", begins with sequence ", sequence, " of the data, but in an attempt before with ",
        before->second,
        ": the batch has changed between them, so what was done again cannot be told"));
  }
  // What it goes on with replaces what lay behind.
  places->erase(places->lower_bound(step), places->end());
  places->insert(here.begin(), here.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRunLog(const RunLog& log) {
  StepPlaces places;
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
    RETURN_IF_ERROR(CheckPlaces(attempt, &places));
  }
  return absl::OkStatus();
}

}  // namespace muster::runtime
