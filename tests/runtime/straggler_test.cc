// The search for slow ranks on simulated work: what is noise, what is routing, what is slow.
#include "runtime/fault/straggler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>
#include <string>

namespace muster::runtime {
namespace {

using Random = std::mt19937_64;

// Ranks that do the same steps, each told to the finder when it ends.
class Ranks {
 public:
  explicit Ranks(int size, StragglerOptions options = {})
      : finder_(std::move(options), size), work_(static_cast<size_t>(size)) {}

  // A step in which rank r works work(r); returns who is named in it, -1: nobody.
  int Step(const std::function<StepWork(int)>& work) {
    ++step_;
    for (int rank = 0; rank < size(); ++rank) {
      auto& mine = work_[static_cast<size_t>(rank)];
      mine[static_cast<size_t>(step_) % kStepsRemembered] = work(rank);
      finder_.See(rank, step_, mine);
    }
    const auto slow = finder_.Next();
    if (slow) excess_ = slow->excess;
    return slow ? slow->rank : -1;
  }
  // Dense: by each rank's factor.
  int Step(const std::vector<double>& factors) {
    return Step([&](int rank) {
      const double ns = 100e6 * factors[static_cast<size_t>(rank)];
      return StepWork{.even_ns = static_cast<int64_t>(ns)};
    });
  }
  int size() const { return static_cast<int>(work_.size()); }
  int64_t step() const { return step_; }
  double excess() const { return excess_; }

 private:
  StragglerFinder finder_;
  std::vector<std::array<StepWork, kStepsRemembered>> work_;
  int64_t step_ = 0;
  double excess_ = 0;
};

// By how much longer a rank works for a step than it would in peace. Draws one value a call.
using Noise = std::function<double(Random&)>;

Noise Normal(double deviation) {
  return [deviation](Random& random) {
    return std::exp(std::normal_distribution<double>(0, deviation)(random));
  };
}

// Student's t with 2.5 degrees of freedom: one step in 50 lasts longer by more than 4 `scale`.
Noise HeavyTailed(double scale) {
  return [scale](Random& random) {
    return std::exp(scale * std::student_t_distribution<double>(2.5)(random));
  };
}

struct Outcome {
  int named_rightly = 0, named_falsely = 0, late = 0;
};

// One job: rank `slow` (-1: none) works longer by `excess` from `onset` on.
Outcome Simulate(int ranks, int steps, const Noise& noise, uint64_t seed, int slow = -1,
                 int onset = 0, double excess = 0.1) {
  Random random(seed);
  Ranks job(ranks);
  Outcome outcome;
  std::vector<double> factors(static_cast<size_t>(ranks));
  for (int step = 1; step <= steps; ++step) {
    for (int rank = 0; rank < ranks; ++rank) {
      const bool is_slow = rank == slow && step > onset;
      factors[static_cast<size_t>(rank)] = noise(random) * (is_slow ? 1 + excess : 1);
    }
    const int named = job.Step(factors);
    if (named < 0) continue;
    (named == slow && step > onset ? outcome.named_rightly : outcome.named_falsely) += 1;
    outcome.late += step > onset + 17;  // a heartbeat takes up to 3 steps of 100 ms
  }
  return outcome;
}

TEST(StragglerFinder, NobodyIsNamedInNoise) {
  for (const int ranks : {2, 4, 16}) {
    for (const Noise& noise : {Normal(0.01), Normal(0.05), Normal(0.2), HeavyTailed(0.01),
                               HeavyTailed(0.03), HeavyTailed(0.1)}) {
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        EXPECT_EQ(Simulate(ranks, 1000, noise, seed).named_falsely, 0) << ranks << " " << seed;
      }
    }
  }
}

TEST(StragglerFinder, TenPercentMoreWorkIsNamedInTime) {
  for (const int ranks : {2, 4, 16}) {
    for (const Noise& noise : {Normal(0), Normal(0.01), Normal(0.02), HeavyTailed(0.01)}) {
      for (int onset = 0; onset < 40; ++onset) {
        const auto seed = static_cast<uint64_t>(1 + onset);
        const Outcome outcome = Simulate(ranks, onset + 30, noise, seed, onset % ranks, onset);
        EXPECT_EQ(outcome.named_rightly, 1) << ranks << " " << onset;
        EXPECT_EQ(outcome.named_falsely, 0) << ranks << " " << onset;
        EXPECT_EQ(outcome.late, 0) << ranks << " " << onset;
      }
    }
  }
}

// What ranks worked in a real job (muster launch --step-times), by step and rank.
std::map<int64_t, std::map<int, StepWork>> Recorded(const std::string& job) {
  std::ifstream file(std::string(MUSTER_SOURCE_DIR "/tests/runtime/step_times/") + job + ".csv");
  std::string line;
  std::getline(file, line);
  std::map<int64_t, std::map<int, StepWork>> steps;
  while (std::getline(file, line)) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream fields(line);
    int64_t attempt = 0, rank = 0, step = 0, even_us = 0, uneven_us = 0, rows = 0;
    fields >> attempt >> rank >> step >> even_us >> uneven_us >> rows;
    steps[step][static_cast<int>(rank)] = {even_us * 1'000, uneven_us * 1'000, rows};
  }
  return steps;
}

// On a virtual machine whose host others used: episodes of some steps that last 25 % longer, on one
// rank and then on another.
TEST(StragglerFinder, NobodyIsNamedInJobsRecordedOnASharedHost) {
  for (const char* job : {"dense-clean", "moe-clean"}) {
    const auto steps = Recorded(job);
    ASSERT_EQ(steps.size(), 120u) << job;
    Ranks ranks(4);
    for (const auto& [step, work] : steps) {
      EXPECT_EQ(ranks.Step([&, &work = work](int rank) { return work.at(rank); }), -1)
          << job << " " << step;
    }
  }
}

// There rank 0 is stopped for a tenth of its time from step 17 on; the noise of the steps before
// makes that take longer than 20 steps. Those 40 steps are no noise.
TEST(StragglerFinder, ASlowRankThatStaysSlowIsNamedOnASharedHost) {
  Ranks ranks(2);
  std::vector<std::pair<int, int64_t>> named;
  for (const auto& [step, work] : Recorded("moe-slowed")) {
    const int who = ranks.Step([&work = work](int rank) { return work.at(rank); });
    if (who >= 0) named.emplace_back(who, step);
  }
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0].first, 0);
  EXPECT_GT(named[0].second, 17);
}

// Stopped for 5 ms behind each 50 ms of running, wherever that falls in steps that take 113 ms.
TEST(StragglerFinder, ARankThatIsStoppedInTurnsIsNamedInTime) {
  for (int phase = 0; phase < 50; phase += 5) {
    Ranks job(4);
    double ran_ms = phase;
    int named_after = -1;
    for (int step = 1; step <= 40; ++step) {
      const int named = job.Step([&](int rank) {
        int64_t ms = 113;
        if (rank == 2 && step > 10) {
          ms += 5 * (static_cast<int>((ran_ms + 113) / 50) - static_cast<int>(ran_ms / 50));
          ran_ms += 113;
        }
        return StepWork{.even_ns = ms * 1'000'000};
      });
      if (named < 0) continue;
      EXPECT_EQ(named, 2);
      EXPECT_EQ(named_after, -1) << "told twice";
      named_after = step - 10;
      EXPECT_NEAR(job.excess(), 0.1, 0.03);
    }
    EXPECT_GT(named_after, 0);
    EXPECT_LE(named_after, 17);
  }
}

TEST(StragglerFinder, ADisturbanceOfEightStepsNamesNobodyHoweverStrong) {
  Ranks job(4);
  for (int step = 1; step <= 1000; ++step) {
    std::vector<double> factors(4, 1.0);
    if (step % 50 < 8) factors[static_cast<size_t>(step / 50 % 4)] = 30;
    EXPECT_EQ(job.Step(factors), -1) << step;
  }
}

TEST(StragglerFinder, FourPercentMayStayForEver) {
  Random random(1);
  const Noise noise = Normal(0.01);
  Ranks job(4);
  for (int step = 1; step <= 2000; ++step) {
    std::vector<double> factors;
    for (const double constant : {1.04, 1.0, 0.99, 1.0})
      factors.push_back(constant * noise(random));
    EXPECT_EQ(job.Step(factors), -1) << step;
  }
}

// 60 ms alike for all and 2 us for each row that the router sends, of which one rank gets twice as
// many as another.
StepWork Routed(int64_t rows, double factor) {
  return {.even_ns = static_cast<int64_t>(60e6 * factor),
          .uneven_ns = static_cast<int64_t>(2e3 * factor * static_cast<double>(rows)),
          .uneven_rows = rows};
}

TEST(StragglerFinder, PopularExpertsAreNotSlow) {
  Random random(1);
  const Noise noise = Normal(0.01);
  Ranks job(4);
  for (int step = 1; step <= 1000; ++step) {
    const int named = job.Step([&](int rank) {
      const int64_t rows = 15'000 + 5'000 * rank + static_cast<int64_t>(random() % 3'000);
      return Routed(rows, noise(random));
    });
    EXPECT_EQ(named, -1) << step;
  }
}

TEST(StragglerFinder, ASlowRankIsNamedWhateverTheRouterGivesIt) {
  for (int slow = 0; slow < 4; ++slow) {
    Ranks job(4);
    int named_at = -1;
    for (int step = 1; step <= 60; ++step) {
      const int named = job.Step([&](int rank) {
        return Routed(15'000 + 5'000 * rank, rank == slow && step > 20 ? 1.1 : 1);
      });
      if (named < 0) continue;
      EXPECT_EQ(named, slow);
      named_at = step;
    }
    EXPECT_GT(named_at, 20);
    EXPECT_LE(named_at, 20 + 17);
  }
}

TEST(StragglerFinder, ExcessIsAgainstTheMedianOfTheOthers) {
  const auto even = [](int64_t ns) { return StepWork{.even_ns = ns}; };
  const std::vector<double> z = ExcessOverPeers({even(100), even(100), even(110), even(90)});
  EXPECT_NEAR(z[0], 0, 1e-12);
  EXPECT_NEAR(z[2], std::log(1.1), 1e-12);
  EXPECT_NEAR(z[3], std::log(0.9), 1e-12);
  const std::vector<double> pair = ExcessOverPeers({even(100), even(110)});
  EXPECT_NEAR(pair[0], -pair[1], 1e-12);
  EXPECT_EQ(ExcessOverPeers({even(100)}), std::vector<double>{0});
  EXPECT_EQ(ExcessOverPeers({even(0), even(0)}), (std::vector<double>{0, 0}));
}

// A rank tells several steps at once, and of short ones so many that some are lost.
TEST(StragglerFinder, StepsAreComparedWithTheirLikeHoweverTheyAreTold) {
  StragglerFinder finder({}, 2);
  std::array<std::array<StepWork, kStepsRemembered>, 2> work;
  std::optional<SlowRank> named;
  for (int64_t step = 1; step <= 400; ++step) {
    for (int rank = 0; rank < 2; ++rank) {
      // Steps differ by a factor of 4: only their likes can be compared.
      const int64_t ns = 10'000'000 * (1 + step % 4) * (rank == 1 && step > 200 ? 11 : 10);
      work[static_cast<size_t>(rank)][static_cast<size_t>(step) % kStepsRemembered] = {.even_ns =
                                                                                           ns};
      const int64_t every = rank == 0 ? 5 : 18;
      if (step % every == 0) finder.See(rank, step, work[static_cast<size_t>(rank)]);
    }
    if (const auto slow = finder.Next()) {
      EXPECT_FALSE(named) << "told twice";
      named = slow;
      EXPECT_GT(step, 200);
    }
  }
  ASSERT_TRUE(named);
  EXPECT_EQ(named->rank, 1);
  EXPECT_NEAR(named->excess, 0.1, 0.01);
}

}  // namespace
}  // namespace muster::runtime
