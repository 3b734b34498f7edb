// What a save asks of the ranks: nothing that a step without one does not ask, on the thread that
// trains. Whether the save before has ended, and how, is told on the exchange of every step.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/checkpointer.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/train/checkpoint_pieces.h"
#include "runtime/train/trainer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/shared_directory.h"

namespace muster::runtime {
namespace {

using kernels::StreamMode;
using parallel::TestWorld;

constexpr int64_t kEvery = 6, kSteps = 4 * kEvery + 3;

// The test's world; counts the gathers of each step, and the calls on process groups since the
// gather before, but for those of the memory tier's own threads. While a save is in flight a gather
// takes long, so that steps outlast the save.
class CountingWorld final : public parallel::World {
 public:
  struct Counts {
    int gathers = 0, calls = 0;
    bool busy = false;  // a save was in flight
  };

  CountingWorld() {
    rank_ = TestWorld().rank();
    size_ = TestWorld().size();
    host_ = TestWorld().host();
    deadline_ = TestWorld().deadline();
    CountCalls();
  }
  absl::StatusOr<std::unique_ptr<parallel::ProcessGroup>> NewGroup(
      std::string name, std::vector<int> world_ranks, parallel::TimeCategory category,
      kernels::Device device) override {
    return TestWorld().NewGroup(std::move(name), std::move(world_ranks), category, device);
  }
  absl::StatusOr<std::vector<std::string>> GatherText(const std::string& text) override {
    Counts& counts = counts_[log().place().step];
    ++counts.gathers;
    counts.calls += CountCalls();
    auto all = TestWorld().GatherText(text);
    if (!all.ok()) return all;
    for (const std::string& each : *all) counts.busy |= each.find("busy") != std::string::npos;
    if (counts.busy) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    return all;
  }
  [[noreturn]] void Abort(int exit_code) override { _exit(exit_code); }

  Counts of_step(int64_t step) const { return counts_.at(step); }
  int gathers() const {
    int sum = 0;
    for (const auto& [step, counts] : counts_) sum += counts.gathers;
    return sum;
  }

 private:
  int CountCalls() {
    int calls = 0;
    uint64_t last_id = last_id_;
    for (const parallel::CollectiveEntry& entry : TestWorld().log().Entries()) {
      if (entry.id > last_id_ && entry.group != "memory tier") ++calls;
      last_id = std::max(last_id, entry.id);
    }
    last_id_ = last_id;
    return calls;
  }
  std::map<int64_t, Counts> counts_;
  uint64_t last_id_ = 0;
};

ResolvedJob JobOf(const std::string& directory, std::vector<std::string> overrides) {
  const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";
  overrides.insert(overrides.begin(),
                   {"goodput.peak=0.1", "log.progress=false", "train.sequence_length=32",
                    "train.steps=" + std::to_string(kSteps), "train.global_batch_sequences=24",
                    "data.synthetic.tokens=8192", "evaluate.sequences=4", "log.tensorboard=false",
                    "checkpoint.memory_directory=" + directory});
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, TestWorld().size(), &job, &problems))
      << Describe(problems, path);
  return job;
}

class SaveMeetings : public ::testing::TestWithParam<StreamMode> {};

TEST_P(SaveMeetings, AStepThatSavesMeetsAsOftenAsOneThatDoesNot) {
  const SharedDirectory directory(TestWorld());
  const ResolvedJob job =
      JobOf(directory.path(), {"checkpoint.every_steps=" + std::to_string(2 * kEvery),
                               "checkpoint.memory_every_steps=" + std::to_string(kEvery)});
  CountingWorld world;
  {
    const auto trainer = Trainer::Create(job, world,
                                         {.run_directory = directory.path(),
                                          .process_start_ns = kernels::MonotonicNs(),
                                          .compute_mode = GetParam()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ASSERT_TRUE((*trainer)->Run().ok());
  }
  // Facts that are read late are those of the step before.
  const int64_t late = GetParam() == StreamMode::kInline ? 0 : 1;
  const CountingWorld::Counts plain = world.of_step(4);
  EXPECT_EQ(plain.gathers, 1);
  if (TestWorld().size() > 1) EXPECT_GT(plain.calls, 0);
  int64_t saves = 0;
  for (int64_t step = 4; step + 1 + late < kSteps; ++step) {  // the end saves, too, and waits
    if (step % kEvery != 0) continue;
    const CountingWorld::Counts with = world.of_step(step + late);
    EXPECT_EQ(with.gathers, 1) << "step " << step;
    if (with.busy) continue;  // the save before was slower than six steps: it is put off
    ++saves;
    // What AfterStep calls comes before the next step's gather.
    EXPECT_EQ(with.calls, plain.calls) << "step " << step;
    EXPECT_EQ(world.of_step(step + late + 1).gathers, 1) << "behind step " << step;
    EXPECT_EQ(world.of_step(step + late + 1).calls, plain.calls) << "behind step " << step;
  }
  EXPECT_GE(saves, 2) << "saves were slower than steps";
}

INSTANTIATE_TEST_SUITE_P(Facts, SaveMeetings,
                         ::testing::Values(StreamMode::kInline, StreamMode::kQueue),
                         [](const auto& info) {
                           return info.param == StreamMode::kInline ? "ReadAtOnce" : "ReadLate";
                         });

// Every disk call of the last rank takes long, for most of the run.
TEST(SlowDisk, HoldsNoStepUpAndASaveThatWasPutOffIsAsGoodAsAny) {
  const SharedDirectory directory(TestWorld());
  const std::string run = directory.path() + "/run", from = directory.path() + "/from";
  const std::string last = std::to_string(TestWorld().size() - 1);
  std::vector<std::string> overrides = {"checkpoint.every_steps=3", "checkpoint.keep=20"};
  overrides.push_back("faults.plan=disk_slow rank=" + last + " step=1 seconds=0.02 steps=20");
  const ResolvedJob slow_job = JobOf(directory.path(), overrides);
  double loss = 0;
  {
    CountingWorld world;
    const auto trainer = Trainer::Create(
        slow_job, world, {.run_directory = run, .process_start_ns = kernels::MonotonicNs()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ASSERT_TRUE((*trainer)->Run().ok());
    loss = (*trainer)->last_step().loss;
    for (int64_t step = 2; step < kSteps; ++step) {
      EXPECT_EQ(world.of_step(step).gathers, 1) << "step " << step;
    }
  }
  ASSERT_TRUE(TestWorld().GatherText("written").ok());
  const auto ledger = ReadLedger(run);
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  std::vector<std::vector<int64_t>> snapshots;
  std::vector<int64_t> put_off, committed;
  for (const RankLog& rank : ledger->log.attempts.at(0).ranks) {
    snapshots.emplace_back();
    for (const CheckpointMark& mark : rank.checkpoints) {
      const int64_t step = mark.event.id.step;
      if (mark.event.act == CheckpointAct::kSnapshot) snapshots.back().push_back(step);
      if (mark.event.act == CheckpointAct::kPutOff) put_off.push_back(step);
      if (mark.event.act == CheckpointAct::kCommit) committed.push_back(step);
    }
    EXPECT_EQ(snapshots.back(), snapshots.front()) << "rank " << rank.rank;
  }
  EXPECT_EQ(committed, snapshots.front());
  ASSERT_FALSE(put_off.empty()) << "the disk was fast enough";
  EXPECT_EQ(committed.back(), kSteps);
  const auto late = std::upper_bound(committed.begin(), committed.end(), put_off.front());
  ASSERT_NE(late, committed.end());
  EXPECT_LT(*late, kSteps) << "it was put off to the end";

  const ResolvedJob job = JobOf(directory.path(), {});
  const auto again = Trainer::Create(job, TestWorld(),
                                     {.run_directory = from,
                                      .start_from = run + "/checkpoints/" + CheckpointName(*late),
                                      .process_start_ns = kernels::MonotonicNs()});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->result().steps, *late);
  ASSERT_TRUE((*again)->Run().ok());
  EXPECT_EQ((*again)->last_step().loss, loss);
}

// The last rank's disk fails: every rank hears so at the same meeting, with the error, and what it
// decides from it is the same on all.
TEST(Hearing, OneRanksFailureIsHeardByAllWithoutAMeetingOfItsOwn) {
  const SharedDirectory directory(TestWorld());
  const ResolvedJob job = JobOf(directory.path(), {});
  const auto state = TrainingState::Build(job, TestWorld());
  ASSERT_TRUE(state.ok()) << state.status();
  const bool fails = TestWorld().rank() == TestWorld().size() - 1;
  std::atomic<bool> fail{true};
  const DiskHook hook = [&](const std::string& call, const std::string&) -> absl::Status {
    if (!fail || !fails || call != "write") return absl::OkStatus();
    return absl::ResourceExhaustedError("no space");
  };
  CountingWorld world;
  const auto checkpointer =
      *Checkpointer::Create(directory.path(), SavedPieces(**state), world, (*state)->compute(),
                            {.every_steps = 2, .hook = hook});
  // A step's exchange, until the save has ended; the number of steps is equal on all ranks.
  const auto hear_end_of = [&](int64_t step) {
    int meetings = 0;
    while (checkpointer->last().facts.step != step) {
      const auto all = TestWorld().GatherText(checkpointer->Progress());
      MUSTER_CHECK_OK(all.status());
      MUSTER_CHECK_OK(checkpointer->Hear(*all));
      ++meetings;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return meetings;
  };
  ASSERT_TRUE(*checkpointer->MaybeSave({.step = 2}));
  const int meetings = hear_end_of(2);
  EXPECT_TRUE(absl::IsResourceExhausted(checkpointer->last().status))
      << checkpointer->last().status;
  const std::string mine = std::to_string(meetings) + checkpointer->last().status.ToString();
  const auto all = TestWorld().GatherText(mine);
  ASSERT_TRUE(all.ok()) << all.status();
  for (const std::string& text : *all) EXPECT_EQ(text, mine);
  fail = false;
  ASSERT_TRUE(*checkpointer->MaybeSave({.step = 4}));
  (void)hear_end_of(4);
  EXPECT_TRUE(checkpointer->last().status.ok()) << checkpointer->last().status;
  EXPECT_EQ(checkpointer->committed_step(), 4);
  ASSERT_TRUE(checkpointer->Finish().ok());
  EXPECT_EQ(world.gathers(), 0) << "nothing but what each step tells";
}

}  // namespace
}  // namespace muster::runtime
