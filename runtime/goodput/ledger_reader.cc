#include "runtime/goodput/ledger_reader.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"
#include "runtime/goodput/ledger_files.h"
#include "runtime/goodput/record_scan.h"
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
    if (ledger->unknown_records > 0) {
      Note(absl::StrCat(path, ": ", ledger->unknown_records,
                        " records of a newer version are left out"),
           notes);
    }
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

// The processes of one kernel: its clock, as their lowest rank knows it.
struct Kernel {
  ClockId id;
  int64_t wall_offset_ns = 0;
  ClockOffset to_rank_0;
};

ClockId IdOf(const AttemptBegin& begin) { return {begin.host, begin.boot}; }

std::vector<Kernel> KernelsOf(const std::vector<RankLedger>& ranks) {
  std::vector<Kernel> kernels;
  for (const RankLedger& rank : ranks) {
    const ClockId id = IdOf(rank.begin);
    if (std::none_of(kernels.begin(), kernels.end(),
                     [&](const Kernel& each) { return each.id == id; })) {
      kernels.push_back({id, rank.begin_realtime_ns - rank.begin_monotonic_ns, rank.begin.clock});
    }
  }
  return kernels;
}

AttemptLog JoinRanks(int attempt, std::vector<RankLedger> ranks) {
  AttemptLog joined;
  joined.attempt = attempt;
  joined.world_size = ranks[0].begin.world_size;
  const std::vector<Kernel> kernels = KernelsOf(ranks);
  const Kernel& reference = kernels[0];
  joined.clock = reference.id;
  joined.scheduler = ranks[0].begin.scheduler;
  int64_t begin = ranks[0].log.process_start_ns, end = 0;
  for (RankLedger& rank : ranks) {
    const Kernel& kernel = *std::find_if(kernels.begin(), kernels.end(), [&](const Kernel& each) {
      return each.id == IdOf(rank.begin);
    });
    if (&kernel != &reference) {
      const ClockOffset &own = kernel.to_rank_0, &other = reference.to_rank_0;
      const bool met = own.uncertainty_ns >= 0 && other.uncertainty_ns >= 0;
      const int64_t offset_ns =
          met ? own.offset_ns - other.offset_ns : kernel.wall_offset_ns - reference.wall_offset_ns;
      if (IsOffset(offset_ns)) Shift(offset_ns, &rank.log);
      if (!met || !IsOffset(offset_ns)) joined.clock_bound_ns.reset();
      if (joined.clock_bound_ns) {
        joined.clock_bound_ns =
            std::max(*joined.clock_bound_ns, own.uncertainty_ns + other.uncertainty_ns);
      }
    }
    begin = std::min(begin, rank.log.process_start_ns);
    if (rank.log.end_ns >= end) joined.end_realtime_ns = rank.end_realtime_ns;
    end = std::max(end, rank.log.end_ns);
    joined.ranks.push_back(std::move(rank.log));
  }
  joined.begin_realtime_ns = begin + reference.wall_offset_ns;
  joined.resume_step = ResumeStep(joined.ranks);
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

// A monotonic clock that ran through both attempts tells what lies between them.
void SetGap(const AttemptLog& before, AttemptLog* after) {
  const bool one_supervisor = after->supervisor >= 0 && after->supervisor == before.supervisor;
  int64_t gap = BeginOf(*after) - EndOf(before);
  if (one_supervisor && before.supervisor_end_ns) {
    gap = after->supervisor_begin_ns - *before.supervisor_end_ns;
  } else if (!(before.clock == after->clock) || gap < 0) {  // another host, or booted since
    gap = after->begin_realtime_ns - before.end_realtime_ns;
    after->gap_by_wall_clock = true;
  }
  after->gap_before_ns = std::max<int64_t>(0, gap);
}

// What came before an attempt's begin that the scheduler knows of. With each of its starts devices
// are allocated before there is an attempt; how long the first start was waited for, nobody else
// can tell, and later waits lie in the gap.
void SetWaits(const AttemptLog* before, AttemptLog* attempt) {
  const SchedulerJob& job = attempt->scheduler;
  if (job.id.empty() || job.started_s == 0) return;
  constexpr int64_t kSecondNs = 1'000'000'000;
  if (before == nullptr) {
    attempt->alloc_wait_ns =
        std::max<int64_t>(0, attempt->begin_realtime_ns - job.started_s * kSecondNs);
    if (job.submitted_s > 0) {
      attempt->queued_ns = std::max<int64_t>(0, job.started_s - job.submitted_s) * kSecondNs;
    }
  } else if (!(before->scheduler == job)) {
    attempt->alloc_wait_ns = std::clamp<int64_t>(
        attempt->begin_realtime_ns - job.started_s * kSecondNs, 0, attempt->gap_before_ns);
    attempt->gap_before_ns -= attempt->alloc_wait_ns;
  }
}

std::vector<SupervisorLog> ReadSupervisors(const std::string& directory,
                                           std::vector<std::string>* notes) {
  std::vector<SupervisorLog> supervisors;
  for (const auto& [number, path] : Numbered(directory, "supervisor-", ".ledger")) {
    const absl::StatusOr<std::string> bytes = ReadRegularFile(path);
    absl::StatusOr<SupervisorLog> log =
        bytes.ok() ? ParseSupervisorLedger(*bytes) : absl::StatusOr<SupervisorLog>(bytes.status());
    if (!log.ok()) {
      Note(absl::StrCat(path, " is left out: ", std::string(log.status().message())), notes);
      continue;
    }
    for (const std::string& damage : log->damage) Note(path + ": " + damage, notes);
    log->begin.supervisor = number;
    supervisors.push_back(*std::move(log));
  }
  return supervisors;
}

}  // namespace

RunLog JoinLedgers(std::map<int, std::vector<RankLedger>> ranks,
                   const std::vector<SupervisorLog>& supervisors) {
  std::map<int, AttemptLog> attempts;
  for (auto& [attempt, ledgers] : ranks) {
    if (!ledgers.empty()) attempts[attempt] = JoinRanks(attempt, std::move(ledgers));
  }
  for (const SupervisorLog& log : supervisors) {
    for (const SupervisedAttempt& supervised : log.attempts) {
      AttemptLog& attempt = attempts[supervised.attempt];
      attempt.attempt = supervised.attempt;
      JoinSupervisor(log, supervised, &attempt);
    }
  }
  RunLog joined;
  for (auto& [number, attempt] : attempts) {
    const AttemptLog* before = joined.attempts.empty() ? nullptr : &joined.attempts.back();
    if (before != nullptr) SetGap(*before, &attempt);
    SetWaits(before, &attempt);
    joined.attempts.push_back(std::move(attempt));
  }
  return joined;
}

absl::StatusOr<RunLedger> ReadLedger(const std::string& run_directory) {
  RunLedger result;
  const std::string directory = run_directory + "/ledger";
  std::map<int, std::vector<RankLedger>> ranks;
  for (const auto& [attempt, path] : Numbered(directory, "attempt-", "")) {
    ranks[attempt] = ReadRanks(path, attempt, &result.notes);
    if (ranks[attempt].empty()) {
      Note(path + " is left out: no rank's ledger in it can be read", &result.notes);
    }
  }
  result.log = JoinLedgers(std::move(ranks), ReadSupervisors(directory, &result.notes));
  if (!result.log.attempts.empty()) return result;
  std::string message =
      absl::StrCat("no goodput ledger in ", directory, ": wanted attempt-<a>/rank-<r>.ledger; is ",
                   run_directory, " the run directory of a job?");
  for (const std::string& note : result.notes) absl::StrAppend(&message, "\n  ", note);
  return absl::NotFoundError(message);
}

}  // namespace muster::runtime
