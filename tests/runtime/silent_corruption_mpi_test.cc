// What a rank's memory or its arithmetic does wrong without anybody saying so: that it is found, on
// which rank, how soon, that nothing of it is saved, and that looking for it changes nothing.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"
#include "runtime/checkpoint/format.h"
#include "runtime/train/roll_back.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/guarded_run.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

TEST(ReplicaCheck, AFlippedBitOfAWeightIsFoundWithinTheIntervalAndItsRankNamed) {
  const int ranks = TestWorld().size();
  if (ranks == 1) return;  // no replicas
  GuardedRun run(
      {"zero.level=0", "safety.replica_check_every=3", "faults.plan=flip bit=3 rank=1 step=1"});
  (void)run.Step(1);
  (void)run.Step(2);
  const absl::Status ended = run.trainer().Step(3);
  ASSERT_TRUE(IsRollBack(ended)) << ended;
  const std::string said(ended.message());
  EXPECT_NE(said.find(ranks == 2 ? "rank 0, 1 (no majority" : ": rank 1 against the others"),
            std::string::npos)
      << said;
}

TEST(ReplicaCheck, AFlippedBitIsNeverSavedHoweverLongTheInterval) {
  if (TestWorld().size() == 1) return;
  GuardedRun run(
      {"zero.level=0", "safety.replica_check_every=1000", "faults.plan=flip rank=1 step=2"},
      /*with_checkpoints=*/true);
  const absl::StatusOr<TrainEnd> end = run.trainer().Run();
  EXPECT_TRUE(IsRollBack(end.status())) << end.status();
  EXPECT_EQ(run.trainer().result().steps, 2);  // whose save it was
}

TEST(ReplicaCheck, HealthyReplicasAgreeAtEveryZeroLevelThatHasThem) {
  for (const std::string level : {"0", "1", "2"}) {
    GuardedRun run({"zero.level=" + level, "safety.replica_check_every=1"});
    for (int64_t step = 1; step <= 3; ++step) (void)run.Step(step);
  }
}

// Until the next update overwrites it: on a rank that holds a copy of another's part.
TEST(ReplicaCheck, AFlipOfACopyIsFoundByTheNextUpdateWhenEachIsChecked) {
  const int ranks = TestWorld().size();
  if (ranks == 1) return;
  for (const std::string level : {"1", "2"}) {
    for (const std::string instant : {"begin", "backward", "updated"}) {
      SCOPED_TRACE("zero.level " + level + ", at " + instant);
      const std::string step = instant == "updated" ? "1" : "2";
      GuardedRun run({"zero.level=" + level, "safety.replica_check_every=1",
                      "faults.plan=flip rank=" + Last() + " step=" + step + " at=" + instant});
      (void)run.Step(1);
      const absl::Status ended = run.trainer().Step(2);
      ASSERT_TRUE(IsRollBack(ended)) << ended;
      const std::string wanted =
          ranks == 2 ? "rank 0, 1 (no majority" : ": rank " + Last() + " against the others";
      EXPECT_NE(ended.message().find(wanted), std::string::npos) << ended;
    }
  }
}

// Step 3 has to end in a roll-back that names the last rank, and no other; returns what of it.
std::string ExpectFoundInStepThree(const std::vector<std::string>& overrides) {
  GuardedRun run(overrides);
  (void)run.Step(1);
  (void)run.Step(2);
  const absl::Status ended = run.trainer().Step(3);
  EXPECT_TRUE(IsRollBack(ended)) << ended;
  const std::string said(ended.message()), rank = "\n  rank " + Last() + ": ";
  const size_t found = said.find(rank);
  EXPECT_NE(found, std::string::npos) << said;
  EXPECT_EQ(said.find("\n  rank "), said.rfind("\n  rank ")) << said;
  return found == std::string::npos ? "" : said.substr(found + rank.size());
}

TEST(StateCheck, AFlipOfAnyPartIsFoundByTheNextUpdateAtEveryZeroLevel) {
  const std::vector<std::string> instants = {"step=2 at=updated", "step=3 at=begin",
                                             "step=3 at=backward", "step=3 at=reduced"};
  size_t next = 0;
  for (const std::string level : {"0", "1", "2", "3"}) {
    for (const std::string part : {"master", "moment1", "moment2"}) {
      const std::string instant = instants[next++ % instants.size()];
      SCOPED_TRACE("zero.level " + level + ", " + part + ", " + instant);
      (void)ExpectFoundInStepThree(
          {"zero.level=" + level, "safety.state_check_every=1",
           "faults.plan=flip of=" + part + " rank=" + Last() + " " + instant});
    }
  }
}

TEST(StateCheck, ABf16WeightIsCheckedBesideItsMaster) {
  for (const std::string level : {"0", "3"}) {
    for (const std::string part : {"weight", "master"}) {
      SCOPED_TRACE("zero.level " + level + ", " + part);
      (void)ExpectFoundInStepThree({"zero.level=" + level, "precision.compute=bf16",
                                    "safety.state_check_every=1",
                                    "faults.plan=flip of=" + part + " rank=" + Last() + " step=2"});
    }
  }
}

TEST(StateCheck, AnIntervalThatIsCheckedBeginsAtTheUpdateBefore) {
  ExpectFoundInStepThree(
      {"safety.state_check_every=3", "faults.plan=flip of=moment1 rank=" + Last() + " step=2"});
}

TEST(StateCheck, FindsAFlipWhereFactsAreReadLate) {
  GuardedRun run({"safety.state_check_every=1"}, /*with_checkpoints=*/false,
                 kernels::StreamMode::kQueue);
  for (int64_t step = 1; step <= 2; ++step) ASSERT_TRUE(run.trainer().Step(step).ok());
  const TrainingState& state = run.trainer().state();
  if (std::to_string(TestWorld().rank()) == Last()) {
    auto* moment = static_cast<uint32_t*>(state.optimizer->Slices().back().moment2.data);
    state.compute().Enqueue([moment] { *moment ^= 1u << 7; });
  }
  ASSERT_TRUE(run.trainer().Step(3).ok());
  const absl::Status ended = run.trainer().Settle();
  ASSERT_TRUE(IsRollBack(ended)) << ended;
  EXPECT_NE(ended.message().find("\n  rank " + Last() + ": "), std::string::npos) << ended;
}

TEST(StateCheck, AFlippedMomentIsNeverSaved) {
  GuardedRun run({"safety.state_check_every=1", "checkpoint.every_steps=2",
                  "checkpoint.asynchronous=false",
                  "faults.plan=flip of=moment1 rank=" + Last() + " step=4"});
  const absl::StatusOr<TrainEnd> end = run.trainer().Run();
  EXPECT_TRUE(IsRollBack(end.status())) << end.status();
  EXPECT_EQ(run.trainer().result().steps, 4);
  MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  const std::string checkpoints = run.directory() + "/checkpoints/";
  EXPECT_TRUE(std::filesystem::exists(checkpoints + CheckpointName(2)));
  EXPECT_FALSE(std::filesystem::exists(checkpoints + CheckpointName(4)));
}

// The first execution's value is another one than the second's.
TEST(Replay, AFlipInOneExecutionIsFoundAndItsRankAndTensorNamed) {
  const std::string tensor = "layers.1.moe.router.weight";
  for (const std::string level : {"0", "1", "2", "3"}) {
    for (const std::string kind :
         {"flip_gradient tensor=" + tensor, std::string("flip_activation bit=30")}) {
      SCOPED_TRACE("zero.level " + level + ", " + kind);
      const std::string named = ExpectFoundInStepThree(
          {"zero.level=" + level, "safety.replay_every=3", "schedule.microbatches=1",
           "faults.plan=" + kind + " rank=" + Last() + " step=3"});
      if (kind.find(tensor) == std::string::npos) continue;
      EXPECT_EQ(named, tensor);
    }
  }
}

TEST(Replay, AFlipIsFoundInEachMicrobatchAndStage) {
  if (TestWorld().size() % 2 != 0) return;
  for (const int step : {1, 2}) {
    GuardedRun run({"mesh.pp=2", step == 1 ? "zero.level=2" : "zero.level=0",
                    "safety.replay_every=1", "train.global_batch_sequences=24",
                    "schedule.microbatches=2",
                    "faults.plan=flip_gradient rank=" + Last() + " step=" + std::to_string(step)});
    if (step == 2) (void)run.Step(1);
    const absl::Status ended = run.trainer().Step(step);
    ASSERT_TRUE(IsRollBack(ended)) << ended;
    EXPECT_NE(ended.message().find("\n  rank " + Last() + ": "), std::string::npos) << ended;
  }
}

// What a fault does in both executions alike is not for it to find.
TEST(Replay, EqualExecutionsAreNoFinding) {
  GuardedRun run(
      {"safety.replay_every=1", "faults.plan=flip_gradient passes=2 rank=" + Last() + " step=2"});
  for (int64_t step = 1; step <= 3; ++step) (void)run.Step(step);
}

TEST(Replay, LeavesEveryBitAsItIsOnEachLayout) {
  std::vector<std::vector<std::string>> layouts = {{"zero.level=0"}, {"zero.level=3"}};
  if (TestWorld().size() % 2 == 0) {
    layouts.push_back({"mesh.ep=2", "zero.level=2"});
    layouts.push_back({"mesh.tp=2", "zero.level=1"});
    layouts.push_back({"mesh.pp=2", "schedule.kind=zb_h1"});
  }
  for (std::vector<std::string> overrides : layouts) {
    SCOPED_TRACE(overrides.front());
    for (const char* each : {"train.global_batch_sequences=24", "schedule.microbatches=2",
                             "train.steps=4", "model.moe.bias_update_rate=0.01"}) {
      overrides.emplace_back(each);
    }
    std::vector<uint64_t> hashes;
    std::vector<StepMetrics> metrics;
    for (const bool replays : {false, true}) {
      if (replays) overrides.push_back("safety.replay_every=1");
      const auto mode = overrides[0].find("zero") == 0 ? kernels::StreamMode::kQueue
                                                       : kernels::StreamMode::kInline;
      GuardedRun run(overrides, /*with_checkpoints=*/false, mode);
      const absl::StatusOr<TrainEnd> end = run.trainer().Run();
      ASSERT_TRUE(end.ok()) << end.status();
      hashes.push_back(run.StateHash());
      for (const NamedBuffer& buffer : run.trainer().state().Buffers()) {
        hashes.back() = kernels::Hash64(buffer.tensor.data,
                                        static_cast<size_t>(buffer.tensor.bytes()), hashes.back());
      }
      metrics.push_back(run.trainer().last_step());
    }
    EXPECT_EQ(hashes[0], hashes[1]);
    EXPECT_EQ(metrics[0].loss, metrics[1].loss);
    EXPECT_EQ(metrics[0].grad_norm, metrics[1].grad_norm);
    EXPECT_EQ(metrics[0].expert_imbalance, metrics[1].expert_imbalance);
  }
}

// With saves, a skipped step, and several microbatches.
TEST(SilentCorruption, LookingForItLeavesEveryBitAsItIs) {
  for (const std::string level : {"0", "1", "2", "3"}) {
    SCOPED_TRACE("zero.level " + level);
    std::vector<std::string> overrides = {
        "zero.level=" + level,    "schedule.microbatches=2", "train.global_batch_sequences=24",
        "precision.compute=bf16", "train.steps=5",           "checkpoint.every_steps=2",
        "log.tensorboard=false"};
    std::vector<uint64_t> hashes;
    std::vector<double> losses;
    for (const bool looks : {false, true}) {
      if (looks) overrides.push_back("safety.state_check_every=1");
      if (looks && level != "3") overrides.push_back("safety.replica_check_every=1");
      GuardedRun run(overrides);
      const absl::StatusOr<TrainEnd> end = run.trainer().Run();
      ASSERT_TRUE(end.ok()) << end.status();
      hashes.push_back(run.StateHash());
      losses.push_back(run.trainer().last_step().loss);
    }
    EXPECT_EQ(hashes[0], hashes[1]);
    EXPECT_EQ(losses[0], losses[1]);
  }
}

}  // namespace
}  // namespace muster::runtime
