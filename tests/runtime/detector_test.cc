#include "runtime/fault/detector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace muster::runtime {
namespace {

constexpr int64_t kMs = 1'000'000, kSecond = 1'000 * kMs;

// Ranks that step together, on a clock of the test's own; each beats every 200 ms.
class Job {
 public:
  explicit Job(int world_size, DetectorOptions options = {})
      : world_size_(world_size), detector(options, world_size, 0), facts_(world_size) {
    for (int r = 0; r < world_size; ++r) {
      facts_[r].rank = r;
      facts_[r].world_size = world_size;
      facts_[r].pid = 1000 + r;
      facts_[r].host = "node0";
      facts_[r].type = Frame::Type::kHello;
    }
  }
  Frame& facts(int rank) { return facts_[static_cast<size_t>(rank)]; }

  void Beat(int rank) {
    detector.See({RankEvent::Kind::kFrame, rank, facts(rank), now});
    facts(rank).type = Frame::Type::kBeat;
  }
  void BeatAll() {
    for (int r = 0; r < world_size_; ++r) Beat(r);
  }
  void Lose(int rank) { detector.See({RankEvent::Kind::kLost, rank, facts(rank), now}); }
  void Leave(int rank, int code) {
    facts(rank).type = Frame::Type::kGoodbye;
    facts(rank).exit_code = code;
    Beat(rank);
  }
  // One step of all ranks: rank r works busy(r) ns of it. Beats at its begin and end.
  template <typename F>
  void Step(int64_t ns, F busy) {
    for (Frame& f : facts_) {
      f.state = State::kStep;
      ++f.step;
    }
    BeatAll();
    now += ns;
    for (Frame& f : facts_) {
      f.state = State::kUnknown;
      ++f.steps_done;
      f.work[static_cast<size_t>(f.steps_done) % kStepsRemembered] = {.even_ns = busy(f.rank)};
      f.last_step_ns = ns;
      f.step_ns += ns;
    }
    BeatAll();
  }
  void Step(int64_t ns = 100 * kMs) {
    Step(ns, [ns](int) { return ns; });
  }
  // Time passes while `silent` says nothing; returns the failure, or nothing within `longest`.
  std::optional<Failure> Wait(const std::vector<int>& silent, int64_t longest = 200 * kSecond) {
    for (const int64_t end = now + longest; now < end; now += 200 * kMs) {
      for (int r = 0; r < world_size_; ++r) {
        if (std::find(silent.begin(), silent.end(), r) == silent.end()) Beat(r);
      }
      if (detector.Check(now)) return detector.Check(now);
    }
    return std::nullopt;
  }

  const int world_size_;
  int64_t now = 0;
  Detector detector;

 private:
  std::vector<Frame> facts_;
};

TEST(Detector, ACrashIsNoticedAtOnceAndSaysWhatTheRankLastSaid) {
  Job job(4);
  for (int i = 0; i < 5; ++i) job.Step();
  job.facts(2).state = State::kStep;
  ++job.facts(2).step;
  job.facts(2).doing = "all_reduce world #7";
  job.Beat(2);
  job.now += 150 * kMs;
  EXPECT_FALSE(job.detector.Check(job.now));
  job.Lose(2);
  const auto failure = job.detector.Check(job.now);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kCrash);
  EXPECT_EQ(failure->ranks, std::vector<int>{2});
  EXPECT_EQ(failure->hosts, std::vector<std::string>{"node0"});
  EXPECT_EQ(failure->detected_ns, job.now);
  EXPECT_EQ(failure->evidence,
            "rank 2 died without a word: in step 6, all_reduce world #7, 0.2 s before");
  job.Lose(0);  // those that follow it are not to blame
  job.detector.SeeExit(137, job.now);
  EXPECT_EQ(job.detector.Check(job.now)->ranks, std::vector<int>{2});
  EXPECT_EQ(job.detector.Check(job.now)->exit_code, 137);
  EXPECT_EQ(job.detector.best_step(), 5);
}

TEST(Detector, AStoppedRankIsNamedWithinItsDeadlineAndASecond) {
  for (const int64_t step_ns : {100 * kMs, 3 * kSecond}) {
    Job job(4);
    for (int i = 0; i < 10; ++i) job.Step(step_ns);
    const int64_t deadline = std::max<int64_t>(5 * kSecond, 5 * step_ns);
    EXPECT_EQ(job.detector.deadline_ns(), deadline);
    const int64_t stopped = job.now;
    const auto failure = job.Wait({1});
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, FailureKind::kHang);
    EXPECT_EQ(failure->ranks, std::vector<int>{1});
    EXPECT_EQ(failure->happened_ns, stopped);
    EXPECT_GT(job.now - stopped, deadline);
    EXPECT_LE(job.now - stopped, deadline + kSecond);
  }
}

TEST(Detector, ARankThatIsStoppedWithinAStepIsNamedAlthoughItBeatSinceTheStepBegan) {
  Job job(4);
  for (int i = 0; i < 10; ++i) job.Step();
  for (int r = 0; r < 4; ++r) {
    job.facts(r).state = State::kStep;
    ++job.facts(r).step;
  }
  EXPECT_FALSE(job.Wait({}, 2 * kSecond));
  const int64_t stopped = job.now;
  const auto failure = job.Wait({3});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHang);
  EXPECT_EQ(failure->ranks, std::vector<int>{3}) << failure->evidence;
  EXPECT_LE(job.now - stopped, 6 * kSecond);
}

TEST(Detector, AJobWithoutProgressNamesTheRanksBehind) {
  Job job(3);
  for (int i = 0; i < 10; ++i) job.Step();
  // All beat; rank 2 has not ended the step that the others have.
  for (int r : {0, 1, 2}) {
    job.facts(r).state = State::kStep;
    ++job.facts(r).step;
    job.facts(r).steps_done += r == 2 ? 0 : 1;
  }
  job.facts(2).doing = "all_to_all ep #40";
  const int64_t begun = job.now;
  const auto failure = job.Wait({});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHang);
  EXPECT_EQ(failure->ranks, std::vector<int>{2});
  EXPECT_NE(failure->evidence.find("all_to_all ep #40"), std::string::npos) << failure->evidence;
  EXPECT_LE(job.now - begun, 6 * kSecond);
}

TEST(Detector, LongPhasesAndFirstStepsHaveTimeOfTheirOwn) {
  Job job(2);
  job.BeatAll();
  for (int r : {0, 1}) job.facts(r).state = State::kCheckpointLoad;
  EXPECT_FALSE(job.Wait({}, 500 * kSecond));
  for (int r : {0, 1}) {
    job.facts(r).state = State::kStep;
    job.facts(r).step = 1;
  }
  EXPECT_FALSE(job.Wait({}, 110 * kSecond));
  const auto failure = job.Wait({}, 20 * kSecond);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHang);
  EXPECT_TRUE(failure->ranks.empty()) << "nobody is behind the others";
}

TEST(Detector, AHostWhoseRanksAreAllSilentIsLost) {
  Job job(4);
  for (int r : {2, 3}) job.facts(r).host = "node1";
  for (int i = 0; i < 10; ++i) job.Step();
  const auto failure = job.Wait({2, 3});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost);
  EXPECT_EQ(failure->hosts, std::vector<std::string>{"node1"});
  EXPECT_EQ(failure->ranks, (std::vector<int>{2, 3}));
}

DetectorOptions OnHosts(std::vector<std::string> host_of_rank) {
  DetectorOptions options;
  options.host_of_rank = std::move(host_of_rank);
  return options;
}

TEST(Detector, HostsAreThoseWhereRanksWerePlacedWhateverTheySay) {
  Job job(4, OnHosts({"a.long.name", "10.0.0.2", "10.0.0.2", "c"}));
  for (int i = 0; i < 10; ++i) job.Step();  // all say "node0"
  const auto failure = job.Wait({1, 2});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost);
  EXPECT_EQ(failure->hosts, std::vector<std::string>{"10.0.0.2"});
  EXPECT_EQ(failure->ranks, (std::vector<int>{1, 2}));
}

TEST(Detector, RanksOfALostHostNeedNotHaveBeatenTogether) {
  Job job(4, OnHosts({"a", "a", "b", "b"}));
  for (int i = 0; i < 10; ++i) job.Step();
  ASSERT_FALSE(job.Wait({3}, 1 * kSecond));
  const auto failure = job.Wait({2, 3});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost) << failure->evidence;
  EXPECT_EQ(failure->ranks, (std::vector<int>{2, 3}));
  // Nor does one rank that hangs take its host with it.
  Job one(4, OnHosts({"a", "a", "b", "b"}));
  for (int i = 0; i < 10; ++i) one.Step();
  ASSERT_FALSE(one.Wait({3}, 4 * kSecond));
  EXPECT_EQ(one.Wait({2, 3})->kind, FailureKind::kHang);
}

TEST(Detector, HostsThatAreLostTogetherAreNamedTogether) {
  Job job(6, OnHosts({"a", "a", "b", "b", "c", "c"}));
  for (int i = 0; i < 10; ++i) job.Step();
  const auto failure = job.Wait({0, 1, 4, 5, 2});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost);
  EXPECT_EQ(failure->hosts, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(failure->ranks, (std::vector<int>{0, 1, 4, 5})) << "rank 3 speaks for host b";
  Job apart(6, OnHosts({"a", "a", "b", "b", "c", "c"}));
  for (int i = 0; i < 10; ++i) apart.Step();
  ASSERT_FALSE(apart.Wait({0, 1}, 2 * kSecond));
  EXPECT_EQ(apart.Wait({0, 1, 4, 5})->hosts, (std::vector<std::string>{"a", "c"}));
}

TEST(Detector, ALostHostIsNoticedInFiveSecondsHoweverLongAStepTakes) {
  Job job(4, OnHosts({"a", "a", "b", "b"}));
  for (int i = 0; i < 10; ++i) job.Step(60 * kSecond);
  ASSERT_GT(job.detector.deadline_ns(), 200 * kSecond);
  const int64_t begun = job.now;
  const auto failure = job.Wait({2, 3});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost);
  EXPECT_LE(job.now - begun, 6 * kSecond);
  Job one(4, OnHosts({"a", "a", "b", "b"}));
  for (int i = 0; i < 10; ++i) one.Step(60 * kSecond);
  EXPECT_FALSE(one.Wait({3}, 200 * kSecond)) << "a rank gets the time of a step";
}

TEST(Detector, AHostWhoseConnectionsCloseTogetherIsLost) {
  Job job(5, OnHosts({"a", "a", "b", "b", "c"}));
  for (int i = 0; i < 10; ++i) job.Step();
  job.Lose(3);
  ASSERT_TRUE(job.detector.Check(job.now));
  EXPECT_EQ(job.detector.Check(job.now)->kind, FailureKind::kCrash) << "noticed at once";
  job.now += 20 * kMs;
  job.Lose(2);
  job.detector.JudgeHostOfCrash(job.now);
  const auto failure = job.detector.Check(job.now);
  EXPECT_EQ(failure->kind, FailureKind::kHostLost);
  EXPECT_EQ(failure->hosts, std::vector<std::string>{"b"});
  EXPECT_EQ(failure->ranks, (std::vector<int>{2, 3}));
}

TEST(Detector, ACrashTakesNoHostWithItThatStaysNorOneThatIsEndedWithAllOthers) {
  for (const std::vector<int>& closed : {std::vector<int>{3, 4}, {3, 2, 4, 0, 1}, {3, 2, 4, 0}}) {
    Job job(5, OnHosts({"a", "a", "b", "b", "b"}));
    for (int i = 0; i < 10; ++i) job.Step();
    for (const int rank : closed) job.Lose(rank);
    job.detector.JudgeHostOfCrash(job.now);
    EXPECT_EQ(job.detector.Check(job.now)->kind, FailureKind::kCrash);
    EXPECT_EQ(job.detector.Check(job.now)->ranks, std::vector<int>{3});
    EXPECT_EQ(job.detector.Check(job.now)->hosts, std::vector<std::string>{"b"});
  }
  Job alone(2, OnHosts({"a", "b"}));
  for (int i = 0; i < 10; ++i) alone.Step();
  alone.Lose(1);
  alone.detector.JudgeHostOfCrash(alone.now);
  EXPECT_EQ(alone.detector.Check(alone.now)->kind, FailureKind::kCrash) << "it may be the rank";
}

TEST(Detector, AHostAloneIsLostUnlessItIsTheSupervisorsOwn) {
  for (const uint64_t space_of_ranks : {uint64_t{7}, uint64_t{8}}) {
    DetectorOptions options = OnHosts({"a", "a"});
    options.process_space = 7;
    Job job(2, options);
    for (int r : {0, 1}) job.facts(r).process_space = space_of_ranks;
    for (int i = 0; i < 10; ++i) job.Step();
    const auto failure = job.Wait({0, 1});
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, space_of_ranks == 7 ? FailureKind::kHang : FailureKind::kHostLost);
  }
}

// A rank whose collective overruns its deadline may speak first.
TEST(Detector, AnErrorBesideASilentHostIsTheHosts) {
  for (const bool silent : {false, true}) {
    Job job(4, OnHosts({"a", "a", "b", "b"}));
    for (int i = 0; i < 10; ++i) job.Step();
    job.Wait(silent ? std::vector<int>{2, 3} : std::vector<int>{3}, 4 * kSecond);
    job.Leave(0, 1);
    const auto failure = job.detector.Check(job.now);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, silent ? FailureKind::kHostLost : FailureKind::kError);
    EXPECT_EQ(failure->hosts, std::vector<std::string>{silent ? "b" : "a"});
  }
}

TEST(Detector, AHostOfWhichNoRankSpeaksIsToBlameForTheLaunch) {
  Job job(6, OnHosts({"a", "a", "b", "b", "c", "c"}));
  const auto failure = job.Wait({1, 2, 3});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kLaunch);
  EXPECT_EQ(failure->ranks, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(failure->hosts, std::vector<std::string>{"b"});
  Job none(2, OnHosts({"a", "b"}));
  EXPECT_TRUE(none.Wait({0, 1})->hosts.empty()) << "nothing is known of either";
}

TEST(Detector, KnowsWhereAnAttemptBegan) {
  Job job(2);
  EXPECT_EQ(job.detector.first_step(), 0);
  for (int r : {0, 1}) job.facts(r).step = 40;  // restored
  job.BeatAll();
  EXPECT_EQ(job.detector.first_step(), 0);
  for (int i = 0; i < 7; ++i) job.Step();
  EXPECT_EQ(job.detector.first_step(), 41);
}

TEST(Detector, RanksThatNeverSpeakFailTheLaunch) {
  Job job(3);
  job.Beat(0);
  const auto failure = job.Wait({1, 2});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kLaunch);
  EXPECT_EQ(failure->ranks, (std::vector<int>{1, 2}));
}

TEST(Detector, ExitCodesAreTakenAtTheirWord) {
  const std::pair<int, FailureKind> kCodes[] = {
      {0, FailureKind::kNone},     {75, FailureKind::kPreempted}, {93, FailureKind::kHopeless},
      {2, FailureKind::kUsage},    {1, FailureKind::kError},      {139, FailureKind::kCrash},
      {76, FailureKind::kNumerics}};
  for (const auto& [code, kind] : kCodes) {
    Job job(2);
    job.BeatAll();
    job.detector.SeeExit(code, job.now);
    ASSERT_TRUE(job.detector.Check(job.now));
    EXPECT_EQ(job.detector.Check(job.now)->kind, kind) << code;
    EXPECT_EQ(job.detector.Check(job.now)->exit_code, code);
  }
  Job never(2);
  never.detector.SeeExit(1, 5);
  EXPECT_EQ(never.detector.Check(5)->kind, FailureKind::kLaunch);
}

TEST(Detector, ARankThatReportsAnErrorIsNamedBeforeTheStarterEnds) {
  Job job(2);
  job.Step();
  job.Leave(1, 1);
  ASSERT_TRUE(job.detector.Check(job.now));
  EXPECT_EQ(job.detector.Check(job.now)->kind, FailureKind::kError);
  EXPECT_EQ(job.detector.Check(job.now)->ranks, std::vector<int>{1});
}

TEST(Detector, RanksThatLeaveWellAreNoFailure) {
  Job job(2);
  job.Step();
  job.Leave(0, 0);
  EXPECT_FALSE(job.detector.Check(job.now));
  job.now += 20 * kSecond;  // the other one is still writing weights
  job.Beat(1);
  EXPECT_FALSE(job.detector.Check(job.now));
  job.Leave(1, 0);
  job.detector.SeeExit(0, job.now);
  EXPECT_EQ(job.detector.Check(job.now)->kind, FailureKind::kNone);
}

// mpirun ends the other ranks when the first has left with a code that is not 0.
TEST(Detector, RanksThatTheirStarterEndsAfterAStopAreNoCrash) {
  Job job(3);
  job.Step();
  job.Leave(0, 75);
  job.Lose(1);
  job.Leave(2, 75);
  EXPECT_FALSE(job.detector.Check(job.now));
  job.detector.SeeExit(75, job.now);
  ASSERT_TRUE(job.detector.Check(job.now));
  EXPECT_EQ(job.detector.Check(job.now)->kind, FailureKind::kPreempted);
  Job done(2);
  done.Step();
  done.Leave(0, 0);
  done.Lose(1);
  ASSERT_TRUE(done.detector.Check(done.now)) << "a rank died while it wrote its weights";
  EXPECT_EQ(done.detector.Check(done.now)->kind, FailureKind::kCrash);
}

TEST(Detector, AnEndThatDoesNotEndIsAHang) {
  Job job(2);
  job.Step();
  job.Leave(0, 0);
  auto failure = job.Wait({0}, 100 * kSecond);
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind, FailureKind::kHang);
  EXPECT_EQ(failure->ranks, std::vector<int>{1});
  Job other(2);
  other.Step();
  other.Leave(0, 0);
  other.Leave(1, 0);
  failure = other.Wait({0, 1}, 100 * kSecond);
  ASSERT_TRUE(failure);
  EXPECT_TRUE(failure->ranks.empty());
}

TEST(Detector, TheDeadlineKnowsTheLastThousandStepsHoweverManyRanksMakeThem) {
  Job job(64);
  job.Step(3 * kSecond);
  for (int i = 0; i < 60; ++i) job.Step(100 * kMs);
  EXPECT_EQ(job.detector.deadline_ns(), 15 * kSecond) << "5 times the longest of 61 steps";
}

// Steps with normal noise of `noise` on each rank's work, a common slowness of each step, and rank
// 3 slower by `slow` from step `onset` on. Returns the step at which rank 3 was named, or -1; other
// names are failures.
int StepNamed(double slow, double noise, int steps, uint64_t seed, int onset = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Job job(8);
  int named = -1;
  for (int step = 1; step <= steps; ++step) {
    const double common = 1 + 0.05 * std::abs(normal(random));
    job.Step(130 * kMs, [&](int rank) {
      const bool is_slow = rank == 3 && step >= onset;
      const double factor = common * (1 + noise * normal(random)) * (is_slow ? 1 + slow : 1);
      return static_cast<int64_t>(100e6 * factor);
    });
    if (const auto slow_rank = job.detector.NewStraggler(job.now)) {
      EXPECT_EQ(slow_rank->kind, FailureKind::kStraggler);
      EXPECT_EQ(slow_rank->ranks, std::vector<int>{3}) << slow_rank->evidence;
      EXPECT_EQ(named, -1) << "told twice";
      named = step;
    }
    EXPECT_FALSE(job.detector.Check(job.now));
  }
  return named;
}

TEST(Straggler, TenPercentSlowIsNamedWithinTwentySteps) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const int named = StepNamed(0.10, 0.01, 40, seed);
    EXPECT_GT(named, 0) << seed;
    EXPECT_LE(named, 20) << seed;
  }
}

TEST(Straggler, ASlowdownIsNamedWithinTwentyStepsWheneverItBegins) {
  for (int onset = 2; onset <= 60; ++onset) {
    const int named = StepNamed(0.10, 0.01, onset + 40, static_cast<uint64_t>(onset), onset);
    EXPECT_GE(named, onset);
    EXPECT_LE(named - onset, 20) << onset;
  }
}

// Ranks share cores with other work, which takes them from one now and from another then, for some
// steps at a time: 24 % on average. How usual that is takes some steps to show.
TEST(Straggler, RanksThatAreDisturbedInTurnsAreHardlyEverNamed) {
  int named = 0;
  for (const int ranks : {3, 8}) {
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      std::mt19937_64 random(seed);
      std::normal_distribution<double> normal;
      Job job(ranks);
      std::vector<double> factor(static_cast<size_t>(ranks), 1);
      for (int step = 1; step <= 1000; ++step) {
        for (double& each : factor) {
          if (random() % 8 == 0) each = 1 + 0.3 * std::abs(normal(random));
        }
        job.Step(200 * kMs, [&](int rank) {
          return static_cast<int64_t>(100e6 * factor[static_cast<size_t>(rank)]);
        });
        if (job.detector.NewStraggler(job.now) && step > 72) ++named;
      }
    }
  }
  EXPECT_LE(named, 2) << "in 20,000 steps";
}

TEST(Straggler, AThousandCleanStepsNameNobody) {
  for (const double noise : {0.0, 0.01, 0.05, 0.2}) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      EXPECT_EQ(StepNamed(0, noise, 1000, seed), -1) << noise;
    }
  }
}

TEST(Straggler, StagesOfAPipelineAreComparedWithinThemselves) {
  DetectorOptions options;
  options.straggler.stage = {0, 0, 0, 1, 1, 1};
  Job job(6, options);
  for (int i = 0; i < 100; ++i) {
    job.Step(200 * kMs, [](int rank) { return (rank < 3 ? 100 : 150) * kMs; });
    EXPECT_FALSE(job.detector.NewStraggler(job.now));
  }
}

}  // namespace
}  // namespace muster::runtime
