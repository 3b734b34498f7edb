#pragma once
// The second part of a simulated run (run_simulator.h): what came true of an attempt's plan, and
// the ledgers that tell of it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/runtime/simulated_plan.h"

namespace muster::runtime {

constexpr double kSimulatedPeakFlops = 1e12;
constexpr int64_t kSimulatedRealtimeNs = 1'700'000'000'000'000'000;  // at monotonic 0, before jumps

// Times of the simulation are those of the first host's clock, on which rank 0 and the supervisor
// run.
struct SimulatedHost {
  std::string name;
  uint64_t boot = 0;
  int64_t clock_ns = 0;  // its monotonic clock less the first host's
  int slots = 1;
};

// What an attempt's ledgers show, and how it ends: what came true of its plan.
struct RankTrace {
  bool lost = false, ended = false;
  size_t spans = 0;     // whose begin was recorded
  int64_t last_ns = 0;  // the last record
  std::vector<int64_t> beats;
};

// What the supervisor knows of an attempt.
struct Watch {
  int64_t begin = 0, end = 0;
  std::optional<int64_t> failed, noticed, kill;
  bool dies = false;  // before the end: it never comes to know that
};

struct Story {
  int number = 0, exit_code = 0;
  int64_t death = 0;  // nothing counts that was committed later
  size_t first_execution = 0;
  AttemptPlan plan;
  std::vector<RankTrace> traces;
  Watch watch;
};

// Of a rank whose ledger is not lost. `restored`: the step that the attempt went on behind.
std::string WriteRankLedger(const Story& story, int rank, const SimulatedHost& host,
                            int64_t restored, const std::vector<SimulatedExecution>& executions,
                            Dice& dice);

}  // namespace muster::runtime
