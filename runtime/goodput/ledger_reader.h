#pragma once
// Reads the ledgers of a run. Files may be cut, damaged or hostile: every length and value is
// checked, no link is followed, and what is wrong costs no more than the records it hits. A damaged
// stretch is skipped up to the next whole record; the time across it is unknown, unless the next
// record closes the step that was open.
//
// Clocks: ranks of one host share a monotonic clock. Ranks of another host are placed by the wall
// clocks at their attempt's begin, once, so that a later jump of a wall clock changes nothing.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/goodput/ledger.h"
#include "runtime/goodput/run_log.h"

namespace muster::runtime {

struct RankLedger {
  AttemptBegin begin;
  int64_t begin_monotonic_ns = 0, begin_realtime_ns = 0;  // of the first record
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

// All attempts, ranks and supervisors under "<run>/ledger". Errors: NotFound if there is no ledger
// that can be read, with what was found instead.
absl::StatusOr<RunLedger> ReadLedger(const std::string& run_directory);

}  // namespace muster::runtime
