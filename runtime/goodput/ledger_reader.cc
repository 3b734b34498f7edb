#include "runtime/goodput/ledger_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/error.h"

namespace muster::runtime {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
constexpr size_t kMaxNotes = 100;

// "attempt-12" -> 12 for prefix "attempt-"; nullopt if the name is anything else.
std::optional<int> NumberIn(std::string_view name, std::string_view prefix,
                            std::string_view suffix) {
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(suffix)) {
    return std::nullopt;
  }
  name.remove_prefix(prefix.size());
  name.remove_suffix(suffix.size());
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

// The entries of a directory that are called prefix + number + suffix, by number.
std::map<int, std::string> Numbered(const std::string& directory, std::string_view prefix,
                                    std::string_view suffix) {
  std::map<int, std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (const std::optional<int> number = NumberIn(name, prefix, suffix)) {
      found[*number] = it->path().string();
    }
  }
  return found;
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return absl::NotFoundError(path + ": " + std::strerror(errno));
  struct stat facts {};
  std::string problem;
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) problem = "not a regular file";
  if (facts.st_size > kMaxFileBytes) {
    problem = absl::StrCat(facts.st_size, " bytes, at most ", kMaxFileBytes, " are read");
  }
  std::string bytes(problem.empty() ? static_cast<size_t>(facts.st_size) : 0, '\0');
  size_t used = 0;
  while (problem.empty() && used < bytes.size()) {
    const ssize_t got = read(file, bytes.data() + used, bytes.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) problem = std::strerror(errno);
    if (got <= 0) break;  // 0: it shrank meanwhile
    used += static_cast<size_t>(got);
  }
  close(file);
  if (!problem.empty()) return absl::DataLossError(path + ": " + problem);
  bytes.resize(used);
  return bytes;
}

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
  return joined;
}

int64_t EndOf(const AttemptLog& attempt) {
  int64_t end = 0;
  for (const RankLog& rank : attempt.ranks) end = std::max(end, rank.end_ns);
  return end;
}

// On one host that was not rebooted the monotonic clock spans attempts; else wall clocks must do.
int64_t GapBetween(const AttemptLog& before, const AttemptLog& after) {
  int64_t begin = after.ranks[0].process_start_ns;
  for (const RankLog& rank : after.ranks) begin = std::min(begin, rank.process_start_ns);
  const int64_t monotonic_gap = begin - EndOf(before);
  if (before.ranks[0].host == after.ranks[0].host && monotonic_gap >= 0) return monotonic_gap;
  const int64_t before_begin_to_end =
      EndOf(before) - std::min_element(before.ranks.begin(), before.ranks.end(),
                                       [](const RankLog& a, const RankLog& b) {
                                         return a.process_start_ns < b.process_start_ns;
                                       })
                          ->process_start_ns;
  return std::max<int64_t>(
      0, after.begin_realtime_ns - before.begin_realtime_ns - before_begin_to_end);
}

}  // namespace

absl::StatusOr<RunLedger> ReadLedger(const std::string& run_directory) {
  RunLedger result;
  const std::string directory = run_directory + "/ledger";
  for (const auto& [attempt, path] : Numbered(directory, "attempt-", "")) {
    std::vector<RankLedger> ranks = ReadRanks(path, attempt, &result.notes);
    if (ranks.empty()) {
      Note(path + " is left out: no rank's ledger in it can be read", &result.notes);
      continue;
    }
    result.log.attempts.push_back(JoinRanks(attempt, std::move(ranks)));
    const size_t count = result.log.attempts.size();
    if (count < 2) continue;
    AttemptLog& newest = result.log.attempts[count - 1];
    newest.gap_before_ns = GapBetween(result.log.attempts[count - 2], newest);
  }
  if (!result.log.attempts.empty()) return result;
  std::string message =
      absl::StrCat("no goodput ledger in ", directory, ": wanted attempt-<a>/rank-<r>.ledger; is ",
                   run_directory, " the run directory of a job?");
  for (const std::string& note : result.notes) absl::StrAppend(&message, "\n  ", note);
  return absl::NotFoundError(message);
}

}  // namespace muster::runtime
