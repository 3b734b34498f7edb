#include "parallel/comm/collective_record.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::parallel {
namespace {

using Words = std::vector<absl::string_view>;
constexpr const char* kFirstLine = "muster-collective-log 1";
constexpr int kNumKinds = static_cast<int>(CollectiveKind::kBarrier) + 1;
constexpr int kNumStates = static_cast<int>(CollectiveEntry::State::kFailed) + 1;

std::string Word(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) <= ' ') c = '_';
  }
  return text.empty() ? "-" : text;
}

std::optional<CollectiveKind> KindOf(absl::string_view name) {
  for (int kind = 0; kind < kNumKinds; ++kind) {
    if (name == Name(static_cast<CollectiveKind>(kind))) return static_cast<CollectiveKind>(kind);
  }
  return std::nullopt;
}

bool ParseHeader(const Words& words, CollectiveRecord* record) {
  if (words.size() != 10 || words[0] != "rank" || words[2] != "of" || words[4] != "on" ||
      words[6] != "deadline_ms" || words[8] != "written_ns") {
    return false;
  }
  record->host = std::string(words[5]);
  return absl::SimpleAtoi(words[1], &record->rank) &&
         absl::SimpleAtoi(words[3], &record->world_size) && record->rank >= 0 &&
         record->rank < record->world_size && absl::SimpleAtoi(words[7], &record->deadline_ms) &&
         absl::SimpleAtoi(words[9], &record->written_ns);
}

bool ParseGroup(const Words& words, CollectiveRecord* record) {
  if (words.size() < 3) return false;
  CollectiveGroup group{std::string(words[1]), {}};
  for (size_t i = 2; i < words.size(); ++i) {
    int rank = -1;
    if (!absl::SimpleAtoi(words[i], &rank) || rank < 0 || rank >= record->world_size) return false;
    group.world_ranks.push_back(rank);
  }
  record->groups.push_back(std::move(group));
  return true;
}

bool ParseCall(const Words& words, CollectiveRecord* record) {
  if (words.size() != 17) return false;
  CollectiveEntry call;
  const std::optional<CollectiveKind> kind = KindOf(words[4]);
  int state = -1;
  if (!kind || !absl::SimpleAtoi(words[1], &call.id) ||
      !absl::SimpleAtoi(words[3], &call.sequence) || !absl::SimpleAtoi(words[5], &call.bytes) ||
      !absl::SimpleAtoi(words[6], &state) || state < 0 || state >= kNumStates ||
      !absl::SimpleAtoi(words[7], &call.enqueued_ns) ||
      !absl::SimpleAtoi(words[8], &call.started_ns) || !absl::SimpleAtoi(words[9], &call.done_ns) ||
      !absl::SimpleAtoi(words[10], &call.place.step) ||
      !absl::SimpleAtoi(words[11], &call.place.microbatch) ||
      !absl::SimpleAtoi(words[12], &call.place.layer) ||
      !absl::SimpleAtoi(words[13], &call.place.bucket) ||
      !absl::SimpleAtoi(words[14], &call.peer) ||
      !absl::SimpleAtoi(words[15], &call.pair_sequence)) {
    return false;
  }
  call.group = std::string(words[2]);
  call.kind = *kind;
  call.state = static_cast<CollectiveEntry::State>(state);
  call.site = std::string(words[16]);
  record->calls.push_back(std::move(call));
  return true;
}

bool ParseLine(const Words& words, CollectiveRecord* record) {
  if (words[0] == "group") return ParseGroup(words, record);
  return words[0] == "call" && ParseCall(words, record);
}

}  // namespace

CollectiveRecord RecordNow(int rank, int world_size, const std::string& host,
                           std::chrono::milliseconds deadline, const CollectiveLog& log) {
  return {.rank = rank,
          .world_size = world_size,
          .host = host,
          .deadline_ms = deadline.count(),
          .written_ns = kernels::MonotonicNs(),
          .groups = log.Groups(),
          .calls = log.Entries()};
}

std::string Encode(const CollectiveRecord& record) {
  std::string text = absl::StrCat(kFirstLine, "\nrank ", record.rank, " of ", record.world_size,
                                  " on ", Word(record.host), " deadline_ms ", record.deadline_ms,
                                  " written_ns ", record.written_ns, "\n");
  for (const CollectiveGroup& group : record.groups) {
    absl::StrAppend(&text, "group ", Word(group.name));
    for (const int rank : group.world_ranks) absl::StrAppend(&text, " ", rank);
    text += "\n";
  }
  for (const CollectiveEntry& call : record.calls) {
    absl::StrAppend(&text, "call ", call.id, " ", Word(call.group), " ", call.sequence, " ",
                    Name(call.kind), " ", call.bytes, " ", static_cast<int>(call.state), " ");
    absl::StrAppend(&text, call.enqueued_ns, " ", call.started_ns, " ", call.done_ns, " ");
    absl::StrAppend(&text, call.place.step, " ", call.place.microbatch, " ", call.place.layer, " ",
                    call.place.bucket, " ");
    absl::StrAppend(&text, call.peer, " ", call.pair_sequence, " ", Word(call.site), "\n");
  }
  return text + "end\n";
}

absl::StatusOr<CollectiveRecord> DecodeCollectiveRecord(const std::string& text) {
  CollectiveRecord record;
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  const auto wrong = [](size_t line) {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", line + 1, " is not one of a collective log"));
  };
  if (lines[0] != kFirstLine) return wrong(0);
  if (lines.size() < 2) return wrong(1);
  if (!ParseHeader(absl::StrSplit(lines[1], ' '), &record)) return wrong(1);
  for (size_t i = 2; i < lines.size(); ++i) {
    if (lines[i] == "end") return record;
    if (!ParseLine(absl::StrSplit(lines[i], ' '), &record)) return wrong(i);
  }
  return absl::InvalidArgumentError("a collective log that ends without its last line, \"end\"");
}

std::string HangDirectory(const std::string& run_directory, int attempt) {
  return absl::StrCat(run_directory, "/hang/attempt-", attempt);
}

std::string RecordPath(const std::string& hang_directory, int rank) {
  return absl::StrCat(hang_directory, "/rank-", rank, ".log");
}

absl::Status WriteRecord(const std::string& hang_directory, const CollectiveRecord& record) {
  std::error_code error;
  std::filesystem::create_directories(hang_directory, error);
  const std::string path = RecordPath(hang_directory, record.rank);
  const std::string temporary = absl::StrCat(path, ".", gettid(), ".tmp");
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << Encode(record) << std::flush;
    if (!file) return absl::UnavailableError("cannot write " + temporary);
  }
  std::filesystem::rename(temporary, path, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError("cannot write " + path + ": " + error.message());
}

absl::StatusOr<std::vector<CollectiveRecord>> ReadRecords(const std::string& hang_directory) {
  std::vector<CollectiveRecord> records;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(hang_directory, error)) {
    if (file.path().extension() != ".log") continue;
    std::ostringstream text;
    text << std::ifstream(file.path()).rdbuf();
    absl::StatusOr<CollectiveRecord> record = DecodeCollectiveRecord(text.str());
    if (!record.ok()) return kernels::Annotate(record.status(), file.path().string());
    records.push_back(*std::move(record));
  }
  if (records.empty()) {
    return absl::NotFoundError("no collective log in " + hang_directory +
                               (error ? ": " + error.message() : ""));
  }
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return a.rank < b.rank; });
  return records;
}

}  // namespace muster::parallel
