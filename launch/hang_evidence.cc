#include "launch/hang_evidence.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/error.h"
#include "launch/process_space.h"
#include "launch/process_stacks.h"
#include "parallel/comm/collective_record.h"
#include "parallel/comm/hang_report.h"

namespace muster::launch {
namespace {

using parallel::HangReport;
using runtime::Frame;

constexpr size_t kMostStacks = 4;
constexpr int kStacksMs = 5'000;

bool IsHere(const Frame& frame, uint64_t here) { return IsSameSpace(frame.process_space, here); }

// '\0': it is not connected, or on another host.
char StateOf(int rank, const std::vector<Frame>& connected, uint64_t here) {
  for (const Frame& frame : connected) {
    if (frame.rank == rank && IsHere(frame, here)) return StateOfProcess(frame.pid);
  }
  return '\0';
}

std::string ShortCall(const parallel::CollectiveEntry& call) {
  const std::string step = call.place.step >= 0 ? absl::StrCat(", step ", call.place.step) : "";
  return absl::StrCat(Name(call.kind), " #", call.sequence, " of ", call.group, step, ", ",
                      call.site);
}

const char* Verb(HangReport::Kind kind) {
  switch (kind) {
    case HangReport::Kind::kNone:
      return "no rank is in a collective";
    case HangReport::Kind::kDifferent:
      return "made another call than";
    case HangReport::Kind::kAbsent:
    case HangReport::Kind::kCycle:
      return "missing in";
    case HangReport::Kind::kStuck:
      return "all ranks are in";
  }
  return "";
}

}  // namespace

std::vector<int> MissingLogs(const std::string& directory, const std::vector<Frame>& connected,
                             uint64_t here) {
  std::vector<int> missing;
  for (const Frame& frame : connected) {
    std::error_code error;
    if (std::filesystem::exists(parallel::RecordPath(directory, frame.rank), error)) continue;
    const char state = IsHere(frame, here) ? StateOfProcess(frame.pid) : 'S';
    if (state != 'T' && state != 't' && state != 'Z' && state != '\0') {
      missing.push_back(frame.rank);
    }
  }
  return missing;
}

absl::StatusOr<HangEvidence> ExplainHangOf(const std::string& directory,
                                           const std::vector<Frame>& connected, uint64_t here) {
  ASSIGN_OR_RETURN(const std::vector<parallel::CollectiveRecord> records,
                   parallel::ReadRecords(directory));
  const HangReport report = parallel::ExplainHang(records);
  HangEvidence evidence;
  evidence.text = Describe(report);
  std::vector<std::string> who;
  for (const HangReport::Deviation& deviation : report.deviations) {
    evidence.ranks.push_back(deviation.rank);
    const bool stopped = StateOf(deviation.rank, connected, here) == 'T';
    who.push_back(absl::StrCat("rank ", deviation.rank, stopped ? " (stopped)" : ""));
    if (stopped) {
      absl::StrAppend(&evidence.text, "  rank ", deviation.rank,
                      "'s process is stopped by a signal; SIGCONT would wake it up\n");
    }
  }
  for (const HangReport::Wait& wait : report.waits) {
    const auto& blamed = evidence.ranks;
    const bool is_blamed = std::find(blamed.begin(), blamed.end(), wait.rank) != blamed.end();
    if (evidence.witness < 0 && !is_blamed) evidence.witness = wait.rank;
  }
  evidence.summary =
      absl::StrCat(absl::StrJoin(who, ", "), who.empty() ? "" : " ", Verb(report.kind));
  if (report.kind != HangReport::Kind::kNone) {
    absl::StrAppend(&evidence.summary, " ", ShortCall(report.call));
  }
  return evidence;
}

std::string SaveStacksOf(const HangEvidence& evidence, const std::string& directory,
                         const std::vector<Frame>& connected, uint64_t here) {
  std::vector<int> ranks = evidence.ranks;
  if (ranks.size() > kMostStacks) ranks.resize(kMostStacks);
  if (evidence.witness >= 0) ranks.push_back(evidence.witness);
  std::vector<StackFile> wanted;
  std::vector<std::string> names;
  for (const Frame& frame : connected) {
    if (!IsHere(frame, here) || std::find(ranks.begin(), ranks.end(), frame.rank) == ranks.end()) {
      continue;
    }
    names.push_back(absl::StrCat("rank-", frame.rank, ".stack"));
    wanted.push_back({frame.pid, directory + "/" + names.back()});
  }
  if (wanted.empty()) return "  no stacks: none of these ranks' processes is left on this host\n";
  const std::string tool = SaveStacks(wanted, kStacksMs);
  if (tool.empty()) return "  no stacks: neither eu-stack (elfutils) nor gdb is installed\n";
  return absl::StrCat("  stacks, by ", tool, ", in ", directory, ": ", absl::StrJoin(names, ", "),
                      "\n");
}

}  // namespace muster::launch
