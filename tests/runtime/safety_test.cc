// Pure parts of a run's safety: fault plans, the judgement of steps, replicas, non-finite
// gradients, and what ranks that disagree are told.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "runtime/checkpoint/finite.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/fault/outside_faults.h"
#include "runtime/job/fault_plan.h"
#include "runtime/job/run_directory.h"
#include "runtime/train/non_finite.h"
#include "runtime/train/replica_check.h"
#include "runtime/train/step_guard.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

std::vector<std::string> ProblemsOf(const std::string& plan, int world_size = 4) {
  std::vector<std::string> problems;
  (void)ParseFaultPlan(plan, world_size, &problems);
  return problems;
}

TEST(FaultPlan, ReadsEveryKind) {
  for (const char* plan :
       {"crash rank=3 step=5 at=backward", "abort", "exit code=9 at=data", "stop at=reduced",
        "preempt at=updated", "skip group=dp step=2", "slow share=0.1 steps=0",
        "slow_data seconds=0.2", "nan tensor=embedding.weight passes=1", "flip bit=22",
        "flip_gradient bit=30 passes=2", "flip_activation", "flip of=moment2 at=begin",
        "disk_error call=3", "disk_crash call=2 on=rename", "disk_exit on=fsync code=7",
        "disk_slow seconds=0.2 on=write steps=0", "config rank=1 set=train.seed=7"}) {
    EXPECT_TRUE(ProblemsOf(plan).empty()) << plan << ": " << ProblemsOf(plan).front();
  }
  std::vector<std::string> problems;
  const PlannedFault fault = ParseFaultPlan("crash rank=3 step=5 at=backward", 4, &problems);
  EXPECT_EQ(fault.kind, FaultKind::kCrash);
  EXPECT_EQ(fault.rank, 3);
  EXPECT_EQ(fault.step, 5);
  EXPECT_EQ(fault.at, Instant::kBackward);
}

TEST(FaultPlan, NamesEverythingThatIsWrongAtOnce) {
  const auto problems = ProblemsOf("crash rank=9 step=0 at=bakward call=2 rank=1 loud");
  std::string all;
  for (const std::string& problem : problems) all += problem + "\n";
  for (const char* part : {"step is 0", "did you mean backward?", "crash has no key call",
                           "rank is given twice", "found loud", "the nearest is 3"}) {
    EXPECT_NE(all.find(part), std::string::npos) << part << " not in\n" << all;
  }
  EXPECT_EQ(problems.size(), 6u) << all;
  EXPECT_NE(ProblemsOf("crsh")[0].find("did you mean crash?"), std::string::npos);
  EXPECT_NE(ProblemsOf("flip of=moment")[0].find("did you mean moment1?"), std::string::npos);
  EXPECT_NE(ProblemsOf("slow")[0].find("wants share="), std::string::npos);
  EXPECT_NE(ProblemsOf("slow_data")[0].find("wants seconds="), std::string::npos);
  EXPECT_NE(ProblemsOf("disk_slow")[0].find("wants seconds="), std::string::npos);
  EXPECT_NE(ProblemsOf("config set=seed")[0].find("wants set=key=value"), std::string::npos);
  EXPECT_EQ(ProblemsOf("").size(), 1u);
}

TEST(FaultPlan, AnotherConfigIsThatOfItsRankAlone) {
  const std::vector<std::string> plans = {"crash rank=1", "config rank=1 set=train.seed=7",
                                          "config rank=2 set=precision.compute=bf16"};
  EXPECT_TRUE(PlannedOverrides(plans, 0).empty());
  EXPECT_EQ(PlannedOverrides(plans, 1), std::vector<std::string>{"train.seed=7"});
  EXPECT_EQ(PlannedOverrides(plans, 2), std::vector<std::string>{"precision.compute=bf16"});
  EXPECT_FALSE(PlansOtherBuild(plans, 1));
  EXPECT_TRUE(PlansOtherBuild({"crash", "build rank=1"}, 1));
  EXPECT_FALSE(PlansOtherBuild({"crash", "build rank=1"}, 0));
}

TEST(DamageShard, ChangesThatFileOfTheNewestCheckpointAndNoOther) {
  const ScratchDirectory scratch;
  const std::string content = "0123456789";
  for (const Damage how : {Damage::kFlip, Damage::kTruncate, Damage::kRemove}) {
    for (const char* directory : {"step-9", "step-10", "step-11.attempt-0.partial"}) {
      std::filesystem::create_directories(scratch.path() + "/" + directory);
      for (const char* file : {"a", "b"}) {
        std::ofstream(scratch.path() + "/" + directory + "/" + file) << content;
      }
    }
    ASSERT_TRUE(HasCheckpoint(scratch.path()));
    const absl::Status damaged = DamageShard(scratch.path(), "b", how);
    ASSERT_TRUE(damaged.ok()) << damaged;
    const auto read = [&](const std::string& file) {
      std::ifstream in(scratch.path() + "/" + file);
      return std::string(std::istreambuf_iterator<char>(in), {});
    };
    for (const char* file : {"step-9/a", "step-9/b", "step-10/a", "step-11.attempt-0.partial/b"}) {
      EXPECT_EQ(read(file), content) << file;
    }
    EXPECT_EQ(read("step-10/b"), how == Damage::kFlip       ? "0123446789"
                                 : how == Damage::kTruncate ? "01234"
                                                            : "");
    EXPECT_EQ(std::filesystem::exists(scratch.path() + "/step-10/b"), how != Damage::kRemove);
  }
  EXPECT_FALSE(HasCheckpoint(scratch.path() + "/step-9"));
  EXPECT_FALSE(DamageShard(scratch.path() + "/step-9", "a", Damage::kFlip).ok());
}

TEST(StepGuard, EndsAfterSkipsInARowAndOnlyInARow) {
  StepGuard guard({.max_consecutive_skips = 3});
  for (int64_t step = 1; step <= 20; ++step) {
    EXPECT_EQ(guard.After(step, 1.0, step % 3 != 0), "") << step;
  }
  EXPECT_EQ(guard.After(21, 1.0, true).find("no update in the last 3 steps"), 0u);
}

TEST(StepGuard, NeverEndsForSkipsIfSwitchedOff) {
  StepGuard guard({.max_consecutive_skips = 0});
  for (int64_t step = 1; step <= 100; ++step) EXPECT_EQ(guard.After(step, 1.0, true), "");
}

TEST(StepGuard, EndsOnALossSpikeOnceItsWindowIsFull) {
  StepGuard guard({.loss_spike_factor = 2, .loss_window = 4});
  EXPECT_EQ(guard.After(1, 100.0, false), "");  // nothing to compare with
  for (int64_t step = 2; step <= 9; ++step) EXPECT_EQ(guard.After(step, 1.0, false), "");
  EXPECT_EQ(guard.After(10, 1.99, false), "");
  EXPECT_NE(guard.After(11, 2.6, false), "");
  StepGuard off({.loss_spike_factor = 0});
  for (int64_t step = 1; step <= 50; ++step)
    EXPECT_EQ(off.After(step, 1.0 + step * step, false), "");
}

TEST(StepGuard, ASpikeThatMadeNoUpdateIsNoReasonToEndAndDoesNotMoveTheMean) {
  StepGuard guard({.loss_spike_factor = 2, .loss_window = 4, .skips_spikes = true});
  EXPECT_TRUE(guard.WantsLossBeforeUpdate());
  for (int64_t step = 1; step <= 4; ++step) {
    EXPECT_EQ(guard.Spike(50.0), "") << "the window is not full in step " << step;
    EXPECT_EQ(guard.After(step, 1.0, false), "");
  }
  for (int64_t step = 5; step <= 20; ++step) {
    EXPECT_NE(guard.Spike(2.1), "") << step;
    EXPECT_EQ(guard.After(step, 2.1, /*skipped=*/true), "") << step;
  }
  EXPECT_EQ(guard.Spike(1.9), "");
  EXPECT_NE(guard.Spike(std::numeric_limits<double>::infinity()), "");
  EXPECT_FALSE(StepGuard({.skips_spikes = true}).WantsLossBeforeUpdate());
}

TEST(FirstNonFinite, FindsTheFirstInEveryDtypeWhereverItIs) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t at : {0, 1, 4095, 4096, 9999}) {
    std::vector<float> values(10000, std::numeric_limits<float>::max());
    EXPECT_EQ(FirstNonFinite(values.data(), kernels::DType::kFloat32, 10000), std::nullopt);
    values[static_cast<size_t>(at)] = nan;
    values.back() = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(FirstNonFinite(values.data(), kernels::DType::kFloat32, 10000), at);
    EXPECT_EQ(FirstNonFinite(values.data(), kernels::DType::kFloat32, at), std::nullopt);
    EXPECT_EQ(FirstNonFinite(values.data(), kernels::DType::kInt32, 10000), std::nullopt);
    std::vector<uint16_t> halves(10000, 0xff7f);  // the lowest bf16
    EXPECT_EQ(FirstNonFinite(halves.data(), kernels::DType::kBFloat16, 10000), std::nullopt);
    halves[static_cast<size_t>(at)] = 0xff80;
    EXPECT_EQ(FirstNonFinite(halves.data(), kernels::DType::kBFloat16, 10000), at);
    std::vector<double> doubles(10000, -std::numeric_limits<double>::max());
    doubles[static_cast<size_t>(at)] = std::numeric_limits<double>::infinity();
    EXPECT_EQ(FirstNonFinite(doubles.data(), kernels::DType::kFloat64, 10000), at);
  }
}

TEST(Shards, AStateThatIsNotFiniteIsNeverWritten) {
  const ScratchDirectory directory;
  std::vector<float> values(100, 1.0f);
  values[70] = std::numeric_limits<float>::infinity();
  const std::vector<HostPiece> pieces = {
      {"good", kernels::DType::kFloat32, LogicalRange::Whole({10}), values.data()},
      {"layers.2.bad", kernels::DType::kFloat32, LogicalRange::Whole({100}), values.data()}};
  const auto written = WriteShard(Disk(), directory.path(), "shard", {.step = 1}, pieces);
  EXPECT_TRUE(absl::IsOutOfRange(written.status())) << written.status();
  EXPECT_NE(written.status().message().find("element 70 of this rank's part of layers.2.bad"),
            std::string::npos)
      << written.status();
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/shard"));
}

TEST(StepGuard, EndsOnALossThatIsNotFiniteWithAnUpdate) {
  StepGuard guard({});
  EXPECT_NE(guard.After(1, std::numeric_limits<double>::quiet_NaN(), false), "");
  EXPECT_EQ(guard.After(2, std::numeric_limits<double>::quiet_NaN(), true), "");
}

TEST(Replicas, TheMinorityIsNamedSetBySet) {
  const auto disputes = CompareReplicas({{{"dp@0", 1}, {"edp@0", 5}},
                                         {{"dp@0", 2}, {"edp@1", 6}},
                                         {{"dp@0", 1}, {"edp@0", 5}},
                                         {{"dp@0", 1}, {"edp@1", 7}}});
  ASSERT_EQ(disputes.size(), 2u);
  EXPECT_EQ(disputes[0].replicas, "dp@0");
  EXPECT_EQ(disputes[0].ranks, std::vector<int>{1});
  EXPECT_FALSE(disputes[0].tie);
  EXPECT_EQ(disputes[1].ranks, (std::vector<int>{1, 3}));
  EXPECT_TRUE(disputes[1].tie);
  EXPECT_TRUE(CompareReplicas({{{"dp@0", 1}}, {{"dp@0", 1}}}).empty());
}

TEST(NonFinite, TheRankThatComputedItIsNamedIfItIsKnown) {
  NonFiniteReport report =
      DescribeNonFinite({{.rank = 0, .tensor = "a", .is_own = false},
                         {.rank = 1, .tensor = "a", .element = 4, .is_own = true}},
                        1);
  EXPECT_TRUE(report.knows_rank);
  EXPECT_NE(report.text.find("rank 1 computed it: a, element 4"), std::string::npos);
  // Only in the owner's part: a contribution of another rank would be seen on that rank too.
  report = DescribeNonFinite({{.rank = 0}, {.rank = 1, .tensor = "b"}}, 1);
  EXPECT_TRUE(report.knows_rank);
  EXPECT_NE(report.text.find("rank 1 computed it"), std::string::npos);
  report =
      DescribeNonFinite({{.rank = 0, .tensor = "b", .element = 7}, {.rank = 1, .tensor = "b"}}, 1);
  EXPECT_FALSE(report.knows_rank);
  EXPECT_EQ(report.text, "a gradient is not finite: b, element 7");
  report = DescribeNonFinite({{.rank = 0}, {.rank = 1}}, 1);
  EXPECT_TRUE(report.knows_rank);
  EXPECT_NE(report.text.find("overflows"), std::string::npos);
}

TEST(Agreement, EachFieldThatDiffersIsNamedWithItsValuesAndRanks) {
  const std::string text = DescribeDisagreement({"train.seed\t1\nmesh.dp\t2\n(build)\tx\n",
                                                 "train.seed\t1\nmesh.dp\t2\n(build)\tx\n",
                                                 "train.seed\t7\nmesh.dp\t2\nlog.x\t1\n"});
  EXPECT_NE(text.find("train.seed: 1 on rank 0, 1; 7 on rank 2"), std::string::npos) << text;
  EXPECT_NE(text.find("log.x: 1 on rank 2; not given on rank 0, 1"), std::string::npos) << text;
  EXPECT_NE(text.find("(build): not given on rank 2; x on rank 0, 1"), std::string::npos) << text;
  EXPECT_EQ(text.find("mesh.dp"), std::string::npos) << text;
}

}  // namespace
}  // namespace muster::runtime
