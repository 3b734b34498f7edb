#pragma once
// One rank's collective log as a file: <run>/hang/attempt-<a>/rank-<r>.log. Text, a line per group
// and per call, words separated by spaces; the last line is "end", so a torn file is noticed:
//   muster-collective-log 1
//   rank R of N on HOST deadline_ms D written_ns T
//   group NAME RANK RANK ...
//   call ID GROUP SEQUENCE KIND BYTES STATE ENQUEUED_NS STARTED_NS DONE_NS STEP MICROBATCH LAYER
//        BUCKET PEER PAIR_SEQUENCE SITE
//   end
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/comm/collective_log.h"

namespace muster::parallel {

struct CollectiveRecord {
  int rank = 0, world_size = 1;
  std::string host;
  int64_t deadline_ms = 0;
  int64_t written_ns = 0;  // of the writer's CLOCK_MONOTONIC, as the calls' times are
  std::vector<CollectiveGroup> groups;
  std::vector<CollectiveEntry> calls;  // oldest first
};

// What a rank's log holds now.
CollectiveRecord RecordNow(int rank, int world_size, const std::string& host,
                           std::chrono::milliseconds deadline, const CollectiveLog& log);

std::string Encode(const CollectiveRecord& record);
// Errors: InvalidArgument naming the line.
absl::StatusOr<CollectiveRecord> DecodeCollectiveRecord(const std::string& text);

// "<run>/hang/attempt-<a>".
std::string HangDirectory(const std::string& run_directory, int attempt);
std::string RecordPath(const std::string& hang_directory, int rank);
// Through a temporary name, so that a reader sees a whole file or none.
absl::Status WriteRecord(const std::string& hang_directory, const CollectiveRecord& record);
// What is there, by rank; ranks that wrote nothing are left out. Errors: a file that cannot be
// read or decoded; NotFound if there is none.
absl::StatusOr<std::vector<CollectiveRecord>> ReadRecords(const std::string& hang_directory);

}  // namespace muster::parallel
