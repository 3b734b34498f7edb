#pragma once
// Simulates training runs of several ranks and attempts with crashes, hangs, stalls, skipped steps,
// going back within an attempt, falling back to older checkpoints and lost ledgers; every second
// one under a supervisor, where starts may fail, too; some with up to 400 attempts. It knows what
// each nanosecond was for, and writes the ledgers that the ranks and the supervisor would have
// left.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/goodput/attribution.h"

namespace muster::runtime {

struct SimulatedRun {
  int world_size = 1;
  std::vector<std::vector<std::string>> ledgers;  // [attempt][rank]; empty: no file
  std::string supervisor;                         // its ledger; empty: none

  // The truth.
  DeviceTime time;
  DeviceNs allocated = 0;
  double productive_flops = 0;
  int64_t productive_steps = 0;
  std::map<int64_t, StepCharge> charges;  // by step
  std::map<int64_t, double> goodput;      // of the kept steps
  Uncharged uncharged;

  // What happened, so that a test can see that all of it did.
  int crashes = 0, hangs = 0, fallbacks = 0, rewinds = 0, lost_ledgers = 0, skipped = 0;
  int stalls = 0, failed_starts = 0;
};

SimulatedRun Simulate(uint64_t seed);

}  // namespace muster::runtime
