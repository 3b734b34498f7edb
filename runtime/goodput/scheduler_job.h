#pragma once
// What a scheduler says of the job that a process runs in: by its environment, and so to ledgers.
#include <cstdint>
#include <string>

namespace muster::runtime {

struct SchedulerJob {
  std::string id;    // Slurm's; empty outside of a job; cut to 48 bytes in ledgers
  int restarts = 0;  // how often it was requeued
  // Unix seconds by the scheduler's wall clock, 0: not told. Submission is that of the first time.
  int64_t submitted_s = 0, started_s = 0;
  // One of its starts: the devices are allocated from started_s on.
  friend bool operator==(const SchedulerJob&, const SchedulerJob&) = default;
};

}  // namespace muster::runtime
