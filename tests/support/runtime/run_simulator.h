#pragma once
// Simulates training runs of several ranks, hosts and attempts: crashes, hangs, stalls, skipped
// steps, going back within an attempt, falling back to older checkpoints, requests to stop, lost
// ledgers. Every second one is under a supervisor: starts may fail, spare hosts come in, worlds
// shrink, and the supervisor itself may die and be followed by another. Some have up to 400
// attempts. Hosts have monotonic clocks of their own, and wall clocks that jump. A simulation knows
// what each nanosecond was for and what each step is charged with, and writes the ledgers that
// ranks and supervisors would have left.
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/goodput/attribution.h"

namespace muster::runtime {

struct SimulatedRun {
  std::vector<std::vector<std::string>> ledgers;  // [attempt][rank]; empty: no file
  std::vector<std::string> supervisors;           // their ledgers

  // The truth.
  DeviceTime time;
  DeviceNs allocated = 0;
  double productive_flops = 0;
  int64_t productive_steps = 0;
  std::map<int64_t, StepCharge> charges;  // by step
  std::map<int64_t, double> goodput;      // of the kept steps
  std::set<int64_t> at_risk;
  Uncharged uncharged;
  std::vector<int64_t> gaps;  // before each attempt

  // What happened, so that a test can see that all of it did.
  int crashes = 0, hangs = 0, fallbacks = 0, rewinds = 0, lost_ledgers = 0, skipped = 0;
  int stalls = 0, failed_starts = 0, stops = 0, none_to_kill = 0, open = 0;
  int supervisor_deaths = 0, shrinks = 0, spares_in = 0, several_hosts = 0, several_ranks = 0;
};

SimulatedRun Simulate(uint64_t seed);

}  // namespace muster::runtime
