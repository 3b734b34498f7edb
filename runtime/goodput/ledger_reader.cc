#include "runtime/goodput/ledger_reader.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/ledger_files.h"
#include "runtime/goodput/supervised.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::runtime {
namespace {

constexpr size_t kMaxNotes = 100;

void Note(std::string text, std::vector<std::string>* notes) {
  if (notes->size() == kMaxNotes) notes->push_back("more is wrong; only the first are told");
  if (notes->size() < kMaxNotes) notes->push_back(std::move(text));
}

std::vector<RankLedger> ReadRanks(const std::string& directory, int attempt,
                                  std::vector<std::string>* notes) {
  std::vector<RankLedger> ranks;
  for (const auto& [rank, path] : Numbered(directory, "rank-", ".ledger")) {
    const absl::StatusOr<std::string> bytes = ReadRegularFile(path);
    absl::StatusOr<RankLedger> ledger =
        bytes.ok() ? ParseRankLedger(*bytes) : absl::StatusOr<RankLedger>(bytes.status());
    if (!ledger.ok()) {
      Note(absl::StrCat(path, " is left out: ", std::string(ledger.status().message())), notes);
      continue;
    }
    for (const std::string& damage : ledger->damage) Note(path + ": " + damage, notes);
    const bool fits = ledger->begin.attempt == attempt && ledger->begin.rank == rank &&
                      (ranks.empty() || ranks[0].begin.world_size == ledger->begin.world_size);
    if (fits) {
      ranks.push_back(*std::move(ledger));
      continue;
    }
    Note(absl::StrCat(path, " is left out: it says attempt ", ledger->begin.attempt, ", rank ",
                      ledger->begin.rank, " of ", ledger->begin.world_size),
         notes);
  }
  return ranks;
}

// Moves a rank's times onto the reference's clock.
void Shift(int64_t by_ns, RankLog* log) {
  log->process_start_ns += by_ns;
  log->end_ns += by_ns;
  for (Phase& phase : log->phases) phase.begin_ns += by_ns;
  for (CheckpointMark& mark : log->checkpoints) mark.at_ns += by_ns;
  for (SkipMark& mark : log->skips) mark.at_ns += by_ns;
}

// The step after what the ranks restored. One that rolls back within the attempt restores again;
// the first tells where the attempt began.
std::optional<int64_t> ResumeStep(const std::vector<RankLog>& ranks) {
  for (const RankLog& rank : ranks) {
    for (const CheckpointMark& mark : rank.checkpoints) {
      if (mark.event.act == CheckpointAct::kRestore) return mark.event.id.step + 1;
    }
  }
  return std::nullopt;
}

AttemptLog JoinRanks(int attempt, std::vector<RankLedger> ranks) {
  AttemptLog joined;
  joined.attempt = attempt;
  joined.world_size = ranks[0].begin.world_size;
  const auto wall_offset = [](const RankLedger& rank) {
    return rank.begin_realtime_ns - rank.begin_monotonic_ns;
  };
  std::map<std::string, int64_t> offsets;  // of hosts, by their lowest rank
  for (const RankLedger& rank : ranks) offsets.try_emplace(rank.begin.host, wall_offset(rank));
  const int64_t reference = wall_offset(ranks[0]);
  int64_t begin = ranks[0].log.process_start_ns;
  for (RankLedger& rank : ranks) {
    Shift(offsets[rank.begin.host] - reference, &rank.log);
    begin = std::min(begin, rank.log.process_start_ns);
    joined.ranks.push_back(std::move(rank.log));
  }
  joined.begin_realtime_ns = begin + reference;
  joined.resume_step = ResumeStep(joined.ranks);
  joined.clock_host = joined.ranks[0].host;
  return joined;
}

int64_t BeginOf(const AttemptLog& attempt) {
  int64_t begin = attempt.begin_ns.value_or(INT64_MAX);
  for (const RankLog& rank : attempt.ranks) begin = std::min(begin, rank.process_start_ns);
  return begin;
}

int64_t EndOf(const AttemptLog& attempt) {
  int64_t end = attempt.end_ns.value_or(0);
  for (const RankLog& rank : attempt.ranks) end = std::max(end, rank.end_ns);
  return end;
}

// On one host that was not rebooted the monotonic clock spans attempts; else wall clocks must do.
int64_t GapBetween(const AttemptLog& before, const AttemptLog& after) {
  const int64_t monotonic_gap = BeginOf(after) - EndOf(before);
  if (before.clock_host == after.clock_host && monotonic_gap >= 0) return monotonic_gap;
  const int64_t before_begin_to_end = EndOf(before) - BeginOf(before);
  return std::max<int64_t>(
      0, after.begin_realtime_ns - before.begin_realtime_ns - before_begin_to_end);
}

// The supervisors' side of each attempt. Where two claim one, the later supervisor is right.
void JoinSupervisors(const std::string& directory, std::map<int, AttemptLog>* attempts,
                     std::vector<std::string>* notes) {
  for (const auto& [number, path] : Numbered(directory, "supervisor-", ".ledger")) {
    const absl::StatusOr<std::string> bytes = ReadRegularFile(path);
    const absl::StatusOr<SupervisorLog> log =
        bytes.ok() ? ParseSupervisorLedger(*bytes) : absl::StatusOr<SupervisorLog>(bytes.status());
    if (!log.ok()) {
      Note(absl::StrCat(path, " is left out: ", std::string(log.status().message())), notes);
      continue;
    }
    for (const std::string& damage : log->damage) Note(path + ": " + damage, notes);
    for (const SupervisedAttempt& supervised : log->attempts) {
      AttemptLog& attempt = (*attempts)[supervised.attempt];
      attempt.attempt = supervised.attempt;
      JoinSupervisor(*log, supervised, &attempt);
    }
  }
}

}  // namespace

absl::StatusOr<RunLedger> ReadLedger(const std::string& run_directory) {
  RunLedger result;
  const std::string directory = run_directory + "/ledger";
  std::map<int, AttemptLog> attempts;
  for (const auto& [attempt, path] : Numbered(directory, "attempt-", "")) {
    std::vector<RankLedger> ranks = ReadRanks(path, attempt, &result.notes);
    if (ranks.empty()) {
      Note(path + " is left out: no rank's ledger in it can be read", &result.notes);
      continue;
    }
    attempts[attempt] = JoinRanks(attempt, std::move(ranks));
  }
  JoinSupervisors(directory, &attempts, &result.notes);
  for (auto& [number, attempt] : attempts) {
    if (!result.log.attempts.empty()) {
      attempt.gap_before_ns = GapBetween(result.log.attempts.back(), attempt);
    }
    result.log.attempts.push_back(std::move(attempt));
  }
  if (!result.log.attempts.empty()) return result;
  std::string message =
      absl::StrCat("no goodput ledger in ", directory, ": wanted attempt-<a>/rank-<r>.ledger; is ",
                   run_directory, " the run directory of a job?");
  for (const std::string& note : result.notes) absl::StrAppend(&message, "\n  ", note);
  return absl::NotFoundError(message);
}

}  // namespace muster::runtime
