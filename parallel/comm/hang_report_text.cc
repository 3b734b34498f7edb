#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "parallel/comm/hang_report.h"

namespace muster::parallel {
namespace {

using Kind = HangReport::Kind;

std::string Ranks(const std::vector<int>& ranks) {
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(ranks, ", "));
}

std::string Describe(const HangReport::Deviation& deviation, Kind kind) {
  const std::string who = absl::StrCat("rank ", deviation.rank);
  if (!deviation.has_log) {
    return who + " has not come to it, and wrote no log: it is stopped, dead or cut off";
  }
  if (!deviation.call) return who + " has not come to it, and made no call at all";
  const std::string call = Describe(*deviation.call);
  if (kind == Kind::kDifferent) {
    return absl::StrCat(who, deviation.left_out ? " left it out: " : " made another call: ", call);
  }
  if (deviation.waits) return absl::StrCat(who, " has not come to it: it waits in ", call);
  return absl::StrCat(who, " has not come to it, and is in no call: it computes, reads data, or ",
                      "is stuck there; its last call was ", call);
}

const char* Headline(Kind kind) {
  switch (kind) {
    case Kind::kNone:
      return "no collective that did not end";
    case Kind::kDifferent:
      return "the first collective on which ranks differ: ";
    case Kind::kAbsent:
      return "the first collective on which ranks differ, as not all have come to it: ";
    case Kind::kCycle:
      return "ranks wait for each other in different collectives; the first: ";
    case Kind::kStuck:
      return "all ranks have come to a collective that does not end; look at the network: ";
  }
  return "";
}

}  // namespace

std::string Describe(const CollectiveEntry& call) {
  std::string text = absl::StrCat(Name(call.kind), " #", call.sequence, " of group ", call.group);
  if (call.peer >= 0) {
    absl::StrAppend(&text, call.kind == CollectiveKind::kSend ? " to rank " : " from rank ",
                    call.peer, " (message ", call.pair_sequence, ")");
  }
  if (call.place.step >= 0) absl::StrAppend(&text, ", step ", call.place.step);
  if (call.place.microbatch >= 0) absl::StrAppend(&text, ", microbatch ", call.place.microbatch);
  if (call.place.layer >= 0) absl::StrAppend(&text, ", layer ", call.place.layer);
  if (call.place.bucket >= 0) absl::StrAppend(&text, ", bucket ", call.place.bucket);
  absl::StrAppend(&text, ", ", call.bytes, " bytes, from ", call.site);
  return text;
}

std::string Describe(const HangReport& report) {
  std::string text = absl::StrCat("hang: ", Headline(report.kind));
  if (report.kind == Kind::kNone) return text + "\n";
  absl::StrAppend(&text, Describe(report.call), "\n  its group: ", Ranks(report.group.world_ranks),
                  "; made it: ", Ranks(report.ranks), "\n");
  for (const HangReport::Deviation& deviation : report.deviations) {
    absl::StrAppend(&text, "  ", Describe(deviation, report.kind), "\n");
  }
  if (!report.sure) {
    text += "  as many ranks say the opposite, and no earlier step tells who is wrong\n";
  }
  for (const HangReport::Wait& wait : report.waits) {
    absl::StrAppend(&text, "  rank ", wait.rank, " waits ",
                    wait.waits_for.empty() ? "" : "for " + Ranks(wait.waits_for) + " ", "in ",
                    Describe(wait.call), "\n");
  }
  if (!report.silent.empty()) absl::StrAppend(&text, "  no log: ", Ranks(report.silent), "\n");
  return text;
}

}  // namespace muster::parallel
