#pragma once
// Why a job hung, from what its ranks left in its hang directory (parallel/comm/hang_report.h) and
// from their processes, as far as they are on the supervisor's host.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/fault/heartbeat_frame.h"

namespace muster::launch {

struct HangEvidence {
  std::string summary;     // "rank 2 (stopped) missing in all_reduce #3 of dp, step 2, a/b.cc:60"
  std::string text;        // the whole explanation, in lines
  std::vector<int> ranks;  // to blame, as the logs tell; empty: they do not
  int witness = -1;        // a rank that waits for them
};

// The ranks among `connected` that live, are not stopped, and have not written their log yet.
// `here`: ProcessSpace(); what is in another one is taken to live.
std::vector<int> MissingLogs(const std::string& directory,
                             const std::vector<runtime::Frame>& connected, uint64_t here);

// Errors: no log is there, or one cannot be read.
absl::StatusOr<HangEvidence> ExplainHangOf(const std::string& directory,
                                           const std::vector<runtime::Frame>& connected,
                                           uint64_t here);

// Saves the stacks of the ranks to blame (four at most) and of the witness beside the logs, and
// says in a line for people which, or why there are none.
std::string SaveStacksOf(const HangEvidence& evidence, const std::string& directory,
                         const std::vector<runtime::Frame>& connected, uint64_t here);

}  // namespace muster::launch
