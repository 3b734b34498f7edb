// Attribution against simulated runs that know the truth, from the ledgers' bytes on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "runtime/goodput/attribution.h"
#include "runtime/goodput/charge.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/ledger_record.h"
#include "runtime/goodput/report.h"
#include "runtime/goodput/supervisor_ledger.h"
#include "tests/support/runtime/run_simulator.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

constexpr uint64_t kRuns = 3000;

RunLog LogOf(const SimulatedRun& run) {
  std::vector<SupervisorLog> supervisors;
  for (const std::string& bytes : run.supervisors) {
    absl::StatusOr<SupervisorLog> parsed = ParseSupervisorLedger(bytes);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(parsed->damage.empty()) << parsed->damage[0];
    supervisors.push_back(*std::move(parsed));
  }
  std::map<int, std::vector<RankLedger>> ranks;
  for (size_t a = 0; a < run.ledgers.size(); ++a) {
    for (const std::string& bytes : run.ledgers[a]) {
      if (bytes.empty()) continue;
      absl::StatusOr<RankLedger> ledger = ParseRankLedger(bytes);
      EXPECT_TRUE(ledger.ok()) << ledger.status();
      EXPECT_TRUE(ledger->damage.empty()) << ledger->damage[0];
      ranks[static_cast<int>(a)].push_back(*std::move(ledger));
    }
  }
  return JoinLedgers(std::move(ranks), supervisors);
}

// What differs from the truth; empty if nothing does.
std::string Differences(const SimulatedRun& truth, const Attribution& found) {
  std::string text;
  const auto compare = [&text](const std::string& name, DeviceNs wanted, DeviceNs is) {
    if (wanted != is) {
      text += name + ": " + DecimalSeconds(wanted) + " wanted, " + DecimalSeconds(is) + " found\n";
    }
  };
  for (int s = 0; s < kNumStates; ++s) {
    compare(Name(static_cast<State>(s)), truth.time.state[s], found.total.state[s]);
  }
  for (int f = 0; f < kNumBrokenDownFates; ++f) {
    for (int c = 0; c < parallel::kNumTimeCategories; ++c) {
      compare("fate " + std::to_string(f) + " " + Name(static_cast<parallel::TimeCategory>(c)),
              truth.time.step[f][c], found.total.step[f][c]);
    }
  }
  compare("lost_partial", truth.time.lost_partial, found.total.lost_partial);
  compare("allocated", truth.allocated, found.allocated);
  for (const AttributedStep& step : found.steps) {
    const auto wanted = truth.charges.find(step.step);
    const StepCharge charge = wanted == truth.charges.end() ? StepCharge{} : wanted->second;
    const std::string name = "step " + std::to_string(step.step);
    compare(name + " execution", charge.execution, step.charge.execution);
    compare(name + " rework", charge.rework, step.charge.rework);
    compare(name + " failure", charge.failure, step.charge.failure);
    const auto goodput = truth.goodput.find(step.step);
    const std::optional<double> own = StepGoodput(step);
    if (own.has_value() != (goodput != truth.goodput.end())) text += name + ": kept or not\n";
    if (own && std::abs(*own - goodput->second) > 1e-12 * *own) text += name + ": goodput\n";
  }
  for (const auto& [step, charge] : truth.charges) {
    if (std::none_of(found.steps.begin(), found.steps.end(),
                     [number = step](const auto& each) { return each.step == number; })) {
      text += "step " + std::to_string(step) + " is missing\n";
    }
  }
  compare("start_up", truth.uncharged.start_up, found.uncharged.start_up);
  compare("planned teardown", truth.uncharged.teardown, found.uncharged.teardown);
  compare("unrecovered", truth.uncharged.unrecovered, found.uncharged.unrecovered);
  compare("uncharged", truth.uncharged.Total(), found.uncharged.Total());
  for (const AttributedStep& step : found.steps) {
    if (step.at_risk != truth.at_risk.contains(step.step)) {
      text += "step " + std::to_string(step.step) + " at risk\n";
    }
  }
  for (size_t a = 0; a < found.attempts.size(); ++a) {
    if (found.attempts[a].gap_by_wall_clock) continue;
    compare("gap " + std::to_string(a), truth.gaps[a], found.attempts[a].gap_before_ns);
  }
  if (truth.productive_flops != found.productive_flops) text += "flops differ\n";
  if (truth.productive_steps != found.productive_steps) text += "steps kept differ\n";
  return text;
}

TEST(Conservation, SimulatedRunsAreAttributedToTheNanosecond) {
  SimulatedRun seen;  // sums over runs
  int several_attempts = 0, steps_at_risk = 0, gaps = 0;
  size_t most_attempts = 0;
  for (uint64_t seed = 1; seed <= kRuns; ++seed) {
    const SimulatedRun run = Simulate(seed);
    const absl::StatusOr<Attribution> found = Attribute(LogOf(run));
    ASSERT_TRUE(found.ok()) << "seed " << seed << ": " << found.status();
    ASSERT_EQ(found->total.Total(), found->allocated) << "seed " << seed;
    ASSERT_EQ(Differences(run, *found), "") << "seed " << seed;
    several_attempts += run.ledgers.size() > 1 ? 1 : 0;
    most_attempts = std::max(most_attempts, run.ledgers.size());
    steps_at_risk += static_cast<int>(run.at_risk.size());
    for (const AttributedAttempt& attempt : found->attempts) {
      gaps += attempt.gap_before_ns > 0 && !attempt.gap_by_wall_clock ? 1 : 0;
    }
    seen.crashes += run.crashes;
    seen.hangs += run.hangs;
    seen.fallbacks += run.fallbacks;
    seen.rewinds += run.rewinds;
    seen.lost_ledgers += run.lost_ledgers;
    seen.skipped += run.skipped;
    seen.stalls += run.stalls;
    seen.failed_starts += run.failed_starts;
    seen.stops += run.stops;
    seen.none_to_kill += run.none_to_kill;
    seen.open += run.open;
    seen.supervisor_deaths += run.supervisor_deaths;
    seen.shrinks += run.shrinks;
    seen.spares_in += run.spares_in;
    seen.several_hosts += run.several_hosts;
    seen.several_ranks += run.several_ranks;
    seen.time += run.time;
  }
  // The simulation has shown what it is for.
  EXPECT_GT(several_attempts, 1000);
  EXPECT_GT(seen.several_ranks, 2000);
  EXPECT_GT(gaps, 1000);
  EXPECT_EQ(most_attempts, 400u);
  for (const int count :
       {seen.crashes, seen.hangs, seen.fallbacks, seen.rewinds, seen.lost_ledgers, seen.skipped,
        seen.stalls, seen.failed_starts, seen.stops, seen.supervisor_deaths, seen.shrinks,
        seen.spares_in, seen.several_hosts, seen.none_to_kill, seen.open, steps_at_risk}) {
    EXPECT_GT(count, 100);
  }
  EXPECT_GT(seen.time.At(StepFate::kRework), 0);
  EXPECT_GT(seen.time.At(StepFate::kSkipped), 0);
  EXPECT_GT(seen.time.lost_partial, 0);
  EXPECT_GT(seen.time.At(State::kDetect), 0);
}

TEST(Conservation, TheSameHoldsThroughFilesAndTheReport) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const SimulatedRun run = Simulate(seed);
    const ScratchDirectory scratch;
    for (size_t a = 0; a < run.ledgers.size(); ++a) {
      const std::string directory = AttemptDirectory(scratch.path(), static_cast<int>(a));
      std::filesystem::create_directories(directory);
      for (size_t r = 0; r < run.ledgers[a].size(); ++r) {
        if (run.ledgers[a][r].empty()) continue;
        WriteWhole(directory + "/" + LedgerFileName(static_cast<int>(r)), run.ledgers[a][r]);
      }
    }
    for (size_t k = 0; k < run.supervisors.size(); ++k) {
      WriteWhole(scratch.path() + "/ledger/" + SupervisorFileName(static_cast<int>(k)),
                 run.supervisors[k]);
    }
    const absl::StatusOr<RunReport> report = ReportOf(scratch.path());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(Differences(run, report->attribution), "") << "seed " << seed;
    const double product =
        report->availability * report->non_stall * report->non_rework * *report->mfu;
    EXPECT_NEAR(product, *report->goodput, 1e-12 * *report->goodput);
    const StepsGoodput& steps = report->steps;
    EXPECT_NEAR(steps.availability * steps.non_stall * steps.non_rework * steps.mfu.value_or(0),
                steps.mean.value_or(0), 1e-12 * steps.mean.value_or(0));
    EXPECT_TRUE(report->errors.empty()) << report->errors[0];
  }
}

}  // namespace
}  // namespace muster::runtime
