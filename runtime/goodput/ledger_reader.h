#pragma once
// Reads the ledgers of a run. Files may be cut, damaged or hostile: every length and value is
// checked, no link is followed, and what is wrong costs no more than the records it hits. A damaged
// stretch is skipped up to the next whole record; the time across it is unknown, unless the next
// record closes the step that was open.
//
// Clocks: ranks of one kernel share a monotonic clock. Ranks of another one are placed by what they
// exchanged as the attempt began, to a bound that the log states; those of an older writer by the
// wall clocks then, once, so that a later jump of a wall clock changes nothing. What lies between
// attempts is told by the supervisor's monotonic clock, else by that of a kernel that ran in both;
// only without either by wall clocks, and the log says so.
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/goodput/ledger.h"
#include "runtime/goodput/run_log.h"
#include "runtime/goodput/supervisor_ledger.h"

namespace muster::runtime {

struct RankLedger {
  AttemptBegin begin;
  int64_t begin_monotonic_ns = 0, begin_realtime_ns = 0;  // of the first record
  int64_t end_realtime_ns = 0;                            // of the last
  RankLog log;                                            // in this rank's own clock
  int64_t records = 0, unknown_records = 0;               // unknown: skipped, of a newer writer
  std::vector<std::string> damage;                        // a sentence each: what, at which offset
};

// One file's bytes. Errors: DataLoss if the first record is not a whole attempt begin.
absl::StatusOr<RankLedger> ParseRankLedger(std::string_view bytes);

struct RunLedger {
  RunLog log;
  std::vector<std::string> notes;  // for people: damage, files and attempts left out
};

// What the files of a run say together: each attempt's ranks, in order, and the supervisors, in the
// order of their numbers. Where two of them claim one attempt the later is right.
RunLog JoinLedgers(std::map<int, std::vector<RankLedger>> ranks,
                   const std::vector<SupervisorLog>& supervisors);

// All attempts, ranks and supervisors under "<run>/ledger". Errors: NotFound if there is no ledger
// that can be read, with what was found instead.
absl::StatusOr<RunLedger> ReadLedger(const std::string& run_directory);

}  // namespace muster::runtime
