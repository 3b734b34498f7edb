// What a run goes on from: the newest good state of both tiers, or one fixed state of another run.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "kernels/base/error.h"
#include "runtime/train/run_checkpoints.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/shared_directory.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;
using parallel::TestWorld;

// On rank 0, between two moments that all ranks wait for.
void Once(const std::function<void()>& change) {
  MUSTER_CHECK_OK(TestWorld().GatherText("before").status());
  if (TestWorld().rank() == 0) change();
  MUSTER_CHECK_OK(TestWorld().GatherText("after").status());
}

// One attempt of a run in `directory`/`run` that trains nothing: it restores, and saves when it is
// time, to the disk at even steps, to memory at multiples of three.
class Attempt {
 public:
  Attempt(const std::string& directory, const std::string& run, int number,
          const std::string& start_from = "", DiskHook memory_hook = nullptr)
      : job_(JobOf(directory)), run_(directory + "/" + run) {
    Once([&] { fs::create_directories(run_); });
    auto state = TrainingState::Build(job_, TestWorld());
    MUSTER_CHECK_OK(state.status());
    state_ = *std::move(state);
    auto ledger = LedgerWriter::Create(
        run_, {.attempt = number, .rank = TestWorld().rank(), .world_size = TestWorld().size()});
    MUSTER_CHECK_OK(ledger.status());
    ledger_ = *std::move(ledger);
    testing::internal::CaptureStderr();
    auto made = RunCheckpoints::Create(job_, TestWorld(),
                                       {.run_directory = run_,
                                        .attempt = number,
                                        .start_from = start_from,
                                        .memory_hook = std::move(memory_hook)},
                                       *state_, *ledger_);
    testing::internal::GetCapturedStderr();
    status_ = made.status();
    if (made.ok()) checkpoints_ = *std::move(made);
  }
  void Steps(int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step) {
      MUSTER_CHECK_OK(checkpoints_->AfterStep(step, 0));
    }
  }
  const absl::Status& status() const { return status_; }
  // That the attempt goes on from; 0: none, -1: it does not start.
  int64_t from() const { return checkpoints_ == nullptr ? -1 : checkpoints_->facts().step; }
  std::string Path(int64_t step) const { return run_ + "/checkpoints/" + CheckpointName(step); }

 private:
  static ResolvedJob JobOf(const std::string& directory) {
    const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
    ResolvedJob job;
    std::vector<ConfigProblem> problems;
    MUSTER_CHECK(LoadJob(
        path,
        {"model.layers=2", "model.hidden=32", "train.global_batch_sequences=24", "goodput.peak=0.1",
         "checkpoint.every_steps=2", "checkpoint.keep=9", "checkpoint.memory_every_steps=3",
         "checkpoint.asynchronous=false", "checkpoint.memory_directory=" + directory},
        TestWorld().size(), &job, &problems))
        << Describe(problems, path);
    return job;
  }
  const ResolvedJob job_;
  const std::string run_;
  std::unique_ptr<TrainingState> state_;
  std::unique_ptr<LedgerWriter> ledger_;
  std::unique_ptr<RunCheckpoints> checkpoints_;
  absl::Status status_;
};

void FlipLastByte(const std::string& path) {
  std::string bytes = ReadWhole(path);
  ASSERT_FALSE(bytes.empty()) << path;
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteWhole(path, bytes);
}

// On the disk 2 and 4, in memory 3.
TEST(RunCheckpoints, ADamagedCheckpointOnTheDiskIsPassedByForAnOlderSnapshotInMemory) {
  for (const bool disk_has_another : {true, false}) {
    SCOPED_TRACE(disk_has_another);
    const SharedDirectory shared(TestWorld());
    std::string newest, oldest;
    {
      Attempt first(shared.path(), "run", 0);
      first.Steps(1, 4);
      newest = first.Path(4);
      oldest = first.Path(2);
    }
    Once([&] {
      FlipLastByte(newest + "/" + ShardName(0, TestWorld().size()));
      if (!disk_has_another) fs::remove_all(oldest);
    });
    for (const int number : {1, 2}) {  // it is still there for the next one
      const Attempt next(shared.path(), "run", number);
      EXPECT_EQ(next.from(), 3) << next.status();
    }
  }
}

TEST(RunCheckpoints, SnapshotsThatCannotBeRestoredNowAreKeptAndTheRunDoesNotBeginAnew) {
  const SharedDirectory shared(TestWorld());
  {
    Attempt first(shared.path(), "run", 0);
    first.Steps(3, 3);
  }
  const DiskHook full = [](const std::string& call, const std::string& path) {
    return call == "link" ? absl::ResourceExhaustedError("no room for " + path) : absl::OkStatus();
  };
  {
    const Attempt next(shared.path(), "run", 1, "", full);
    EXPECT_TRUE(absl::IsResourceExhausted(next.status())) << next.status();
    EXPECT_NE(next.status().message().find("step-3 in memory"), std::string::npos);
  }
  EXPECT_EQ(Attempt(shared.path(), "run", 2).from(), 3);
}

TEST(RunCheckpoints, ARestartBeforeTheFirstCheckpointBeginsFromTheSameStateOfTheOtherRun) {
  const SharedDirectory shared(TestWorld());
  Attempt other(shared.path(), "other", 0);
  other.Steps(1, 2);
  EXPECT_EQ(Attempt(shared.path(), "new", 0, shared.path() + "/other").from(), 2);
  other.Steps(4, 4);  // the other run goes on meanwhile
  std::string origin = ReadWhole(shared.path() + "/new/origin");
  ASSERT_FALSE(origin.empty());
  origin.pop_back();
  EXPECT_EQ(origin, other.Path(2));
  EXPECT_EQ(Attempt(shared.path(), "new", 1, origin).from(), 2);
  Once([&] { fs::remove_all(other.Path(2)); });
  const Attempt late(shared.path(), "new", 2, origin);
  EXPECT_TRUE(absl::IsNotFound(late.status())) << late.status();
  EXPECT_NE(late.status().message().find("a checkpoint that is gone"), std::string::npos);
}

}  // namespace
}  // namespace muster::runtime
