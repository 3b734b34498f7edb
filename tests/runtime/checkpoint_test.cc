// What a checkpoint promises: what was saved comes back; damage is always found, named and passed
// by; whatever instant a process dies or a disk fails, a committed checkpoint loads.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "tests/support/runtime/scratch_directory.h"
#include "tests/support/runtime/toy_run.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

// The step that loads, checked against the values; -1: none, -2: wrong values or an error.
int64_t LoadedStep(ToyRun& run) {
  const auto state = run.Load();
  if (!state.ok()) {
    ADD_FAILURE() << state.status();
    return -2;
  }
  if (!state->has_value()) return -1;
  const int64_t step = (*state)->facts.step;
  if (!run.Is(step)) return -2;
  return step;
}

// A commit without a snapshot before it would tell nobody how long it took.
TEST(Checkpoint, ItsSnapshotIsToldOfBeforeItsCommit) {
  for (const bool asynchronous : {false, true}) {
    const ScratchDirectory scratch;
    std::mutex mutex;
    std::vector<std::string> told;
    const auto tell = [&](const std::string& what) {
      const std::lock_guard lock(mutex);
      told.push_back(what);
    };
    ToyRun run(
        scratch.path(),
        {.every_steps = 1,
         .asynchronous = asynchronous,
         .snapshot_taken =
             [&](const CheckpointFacts& facts) { tell("taken " + std::to_string(facts.step)); },
         .ended =
             [&](const SaveReport& save) { tell("ended " + std::to_string(save.facts.step)); }});
    run.Save(1);
    run.Save(2);
    ASSERT_TRUE(run.checkpointer->Finish().ok());
    EXPECT_EQ(told, (std::vector<std::string>{"taken 1", "ended 1", "taken 2", "ended 2"}));
  }
}

TEST(Checkpoint, WhatWasSavedComesBack) {
  for (const kernels::StreamMode mode :
       {kernels::StreamMode::kInline, kernels::StreamMode::kQueue}) {
    const ScratchDirectory scratch;
    ToyRun run(scratch.path(), {}, mode);
    EXPECT_EQ(LoadedStep(run), -1);
    for (int64_t step = 1; step <= 3; ++step) {
      run.Save(step);
      run.Become(50);  // training goes on while the save is written
    }
    ASSERT_TRUE(run.checkpointer->Finish().ok());
    EXPECT_TRUE(run.checkpointer->last().status.ok());
    EXPECT_EQ(run.checkpointer->last().facts.step, 3);
    EXPECT_GT(run.checkpointer->last().bytes, (35 + 64) * 4 + 3 * 8);
    const auto state = run.Load();
    ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
    EXPECT_TRUE(run.Is(3));
    EXPECT_EQ((*state)->facts, ToyRun::FactsOf(3));
    EXPECT_EQ((*state)->name, "step-3");
    EXPECT_TRUE((*state)->passed_by.empty());
  }
}

TEST(Checkpoint, ASlowDiskDoesNotStallTraining) {
  const ScratchDirectory scratch;
  const DiskHook slow = [](const std::string& call, const std::string&) {
    if (call == "fsync") std::this_thread::sleep_for(std::chrono::milliseconds(150));
    return absl::OkStatus();
  };
  ToyRun run(scratch.path(), {.hook = slow});
  run.Save(1);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  const SaveReport& save = run.checkpointer->last();
  EXPECT_TRUE(save.status.ok()) << save.status;
  EXPECT_GE(save.commit_seconds, 5 * 0.15);
  EXPECT_LT(save.stall_seconds, 0.15);  // less than one sync
}

// The disk stands still until it is let go: however long that lasts, no call waits for it.
TEST(Checkpoint, ASaveThatIsDueBehindOneInFlightComesAtTheFirstStepThatFindsItEnded) {
  const ScratchDirectory scratch;
  std::atomic<bool> stands{true};
  const DiskHook hook = [&](const std::string&, const std::string&) {
    while (stands) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return absl::OkStatus();
  };
  std::vector<std::pair<int64_t, int64_t>> put_off;  // the step that was due, that in flight
  ToyRun run(scratch.path(),
             {.every_steps = 3,
              .keep = 9,
              .overlap_copy = true,
              .put_off =
                  [&](int64_t step, const CheckpointFacts& in_flight, double seconds) {
                    EXPECT_GE(seconds, 0);
                    put_off.emplace_back(step, in_flight.step);
                  },
              .hook = hook},
             kernels::StreamMode::kQueue);
  std::vector<int64_t> saved;
  const auto step = [&](int64_t number) {
    run.checkpointer->BeforeUpdate();
    run.Become(number);
    ASSERT_TRUE(run.checkpointer->Hear({run.checkpointer->Progress()}).ok());
    if (run.checkpointer->IsDue(number)) run.checkpointer->Mark();
    const auto saves = run.checkpointer->MaybeSave(ToyRun::FactsOf(number));
    ASSERT_TRUE(saves.ok()) << saves.status();
    if (*saves) saved.push_back(number);
  };
  for (int64_t number = 1; number <= 10; ++number) step(number);
  EXPECT_EQ(saved, (std::vector<int64_t>{3}));
  EXPECT_EQ(put_off, (std::vector<std::pair<int64_t, int64_t>>{{6, 3}, {9, 3}}));
  stands = false;
  while (run.checkpointer->Progress() == "busy") std::this_thread::yield();
  step(11);  // once for both that were put off
  EXPECT_EQ(saved, (std::vector<int64_t>{3, 11}));
  while (run.checkpointer->Progress() == "busy") std::this_thread::yield();
  for (int64_t number = 12; number <= 14; ++number) step(number);
  EXPECT_EQ(saved, (std::vector<int64_t>{3, 11, 12}));  // the next multiple is due as ever
  run.Save(14);                                         // the end waits
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(run.checkpointer->num_put_off(), 2);
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{14, 12, 11, 3}));
  for (const int64_t number : {14, 12, 11, 3}) {
    EXPECT_EQ(LoadedStep(run), number);
    fs::remove_all(run.Path(number));
  }
}

TEST(Checkpoint, SavesAtMultiplesOfEverySteps) {
  const ScratchDirectory scratch;
  ToyRun run(scratch.path(), {.every_steps = 3, .keep = 9, .asynchronous = false});
  for (int64_t step = 1; step <= 10; ++step) {
    run.Become(step);
    ASSERT_TRUE(run.checkpointer->MaybeSave(ToyRun::FactsOf(step)).ok());
  }
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{9, 6, 3}));
  EXPECT_EQ(std::distance(fs::directory_iterator(run.checkpoints()), {}), 3);
  EXPECT_EQ(std::distance(fs::directory_iterator(run.Path(9)), {}), 2);  // shard and manifest
}

TEST(Checkpoint, ASaveOfTheSameStepReplacesTheOldOne) {
  const ScratchDirectory scratch;
  ToyRun run(scratch.path());
  run.Save(4);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  WriteWhole(run.ShardPath(4), "damage");
  EXPECT_FALSE(run.Load().ok());
  run.Save(4);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(LoadedStep(run), 4);
  EXPECT_EQ(std::distance(fs::directory_iterator(run.checkpoints()), {}), 1);
}

TEST(Checkpoint, KeepsTheNewestAndTouchesNothingElse) {
  const ScratchDirectory scratch, elsewhere;
  elsewhere.Write("precious", "data");
  ToyRun run(scratch.path(), {.keep = 2});
  fs::create_directories(run.checkpoints() + "/step-007");
  fs::create_directories(run.checkpoints() + "/best");
  fs::create_directory_symlink(elsewhere.path(), run.Path(1));
  for (int64_t step = 10; step <= 14; ++step) run.Save(step);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{14, 13}));
  EXPECT_TRUE(fs::exists(run.checkpoints() + "/step-007"));
  EXPECT_TRUE(fs::exists(run.checkpoints() + "/best"));
  EXPECT_TRUE(fs::exists(elsewhere.File("precious")));
  // After a roll-back to 10 the checkpoints of the abandoned future do not push out new ones.
  run.Save(11);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{14, 13, 11}));
}

TEST(Checkpoint, OneThatIsSetAsideIsNeitherLoadedNorRemoved) {
  const ScratchDirectory scratch;
  ToyRun run(scratch.path(), {.keep = 2});
  EXPECT_EQ(*LastSetAside(run.checkpoints()), -1);
  EXPECT_TRUE(absl::IsNotFound(SetNewestAside(Disk(), run.checkpoints(), 1).status()));
  for (const int64_t step : {10, 20}) run.Save(step);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(*SetNewestAside(Disk(), run.checkpoints(), 7), "step-20.set_aside.attempt-7");
  EXPECT_EQ(*LastSetAside(run.checkpoints()), 7);
  EXPECT_EQ(LoadedStep(run), 10);
  for (const int64_t step : {20, 30, 40, 50}) run.Save(step);
  ASSERT_TRUE(run.checkpointer->Finish().ok());
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{50, 40}));
  EXPECT_TRUE(RemoveLeftovers(Disk(), run.checkpoints(), 9).ok());
  EXPECT_TRUE(fs::exists(run.checkpoints() + "/step-20.set_aside.attempt-7/manifest.json"));
}

TEST(Checkpoint, RefusesToRemoveWhatItDidNotWrite) {
  const ScratchDirectory scratch;
  const Disk disk;
  fs::create_directories(scratch.File("step-1/inner"));
  EXPECT_TRUE(absl::IsFailedPrecondition(disk.RemoveDirectory(scratch.File("step-1"))));
  fs::create_directory_symlink(scratch.File("step-1"), scratch.File("step-2"));
  EXPECT_TRUE(absl::IsFailedPrecondition(disk.RemoveDirectory(scratch.File("step-2"))));
  fs::create_directories(scratch.File("step-3"));
  fs::create_symlink(scratch.File("step-1"), scratch.File("step-3/link"));
  EXPECT_TRUE(absl::IsFailedPrecondition(disk.RemoveDirectory(scratch.File("step-3"))));
  EXPECT_TRUE(fs::exists(scratch.File("step-1/inner")));
}

TEST(Checkpoint, WhatIsGoneAlreadyIsRemoved) {
  const ScratchDirectory scratch;
  for (const std::string gone : {"unlink", "rmdir"}) {
    fs::create_directories(scratch.File("old"));
    scratch.Write("old/file", "bytes");
    const Disk disk([&](const std::string& call, const std::string& path) {
      if (call == gone) fs::remove_all(path);  // another one was faster
      return absl::OkStatus();
    });
    EXPECT_TRUE(disk.RemoveDirectory(scratch.File("old")).ok()) << gone;
    EXPECT_EQ(scratch.NumEntries(), 0);
  }
}

TEST(Checkpoint, ALeftoverThatCannotBeRemovedStopsNeitherSavesNorTheNextAttempt) {
  const ScratchDirectory scratch;
  ToyRun run(scratch.path(), {.keep = 1, .asynchronous = false});
  const std::string removed = run.checkpoints() + "/step-1.removed";
  run.Save(1);
  fs::create_directories(run.Path(1) + "/notes");
  fs::create_directories(run.checkpoints() + "/step-9.attempt-0.removed/notes");
  testing::internal::CaptureStderr();
  for (const int64_t step : {2, 3, 1, 4}) {  // 1 again: its name is taken
    run.Save(step);
    ASSERT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
  }
  fs::create_directories(run.checkpoints() + "/step-9.attempt-0.partial");
  EXPECT_TRUE(RemoveLeftovers(Disk(), run.checkpoints(), 1).ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("nothing reads " + removed + " any more: remove it by hand"),
            std::string::npos)
      << log;
  EXPECT_FALSE(fs::exists(run.checkpoints() + "/step-9.attempt-0.partial"));
  EXPECT_TRUE(fs::exists(removed + "/notes"));
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), std::vector<int64_t>{4});
  EXPECT_EQ(LoadedStep(run), 4);
  fs::remove(removed + "/notes");
  EXPECT_TRUE(RemoveLeftovers(Disk(), run.checkpoints(), 1).ok());
  EXPECT_FALSE(fs::exists(removed));
}

TEST(Checkpoint, ASaveIsCommittedThoughTheOneItReplacesCannotBeRemoved) {
  for (const bool exchanges : {true, false}) {
    const ScratchDirectory scratch;
    ToyRun run(scratch.path(), {.asynchronous = false,
                                .hook = [&](const std::string& call, const std::string& path) {
                                  return call == "exchange" && !exchanges
                                             ? absl::UnimplementedError(path)
                                             : absl::OkStatus();
                                }});
    run.Save(4);
    WriteWhole(run.ShardPath(4), "damage");
    fs::create_directories(run.Path(4) + "/notes");
    run.Save(4);
    EXPECT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
    EXPECT_EQ(LoadedStep(run), 4);
    run.Save(5);
    EXPECT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
    EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{5, 4}));
    fs::create_directories(run.Path(4) + "/notes");
    run.Save(4);
    EXPECT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
    fs::remove_all(run.Path(4));
    EXPECT_TRUE(RemoveLeftovers(Disk(), run.checkpoints(), 0).ok());
    EXPECT_EQ(*ListCheckpoints(run.checkpoints()), std::vector<int64_t>{5}) << "no old one is back";
  }
}

TEST(Checkpoint, WhatCannotBeLookedAtIsNotTakenForARunWithoutCheckpoints) {
  const ScratchDirectory scratch;
  EXPECT_TRUE(ListCheckpoints(scratch.File("new/checkpoints"))->empty());
  fs::create_symlink(scratch.File("loop"), scratch.File("loop"));
  fs::create_directory(scratch.File("run"));
  fs::create_symlink(scratch.File("nowhere"), scratch.File("run/checkpoints"));
  for (const std::string& directory : {scratch.File("run"), scratch.File("loop")}) {
    ToyRun run(directory);
    EXPECT_TRUE(absl::IsUnavailable(ListCheckpoints(run.checkpoints()).status())) << directory;
    EXPECT_TRUE(absl::IsUnavailable(RemoveLeftovers(Disk(), run.checkpoints(), 0))) << directory;
    EXPECT_TRUE(absl::IsUnavailable(run.Load().status())) << directory;
  }
}

// Saves steps 1 and 2; damages step 2 in one way after another.
class DamagedCheckpoint : public ::testing::Test {
 protected:
  DamagedCheckpoint() : run(scratch.path()) {
    run.Save(1);
    run.Save(2);
    MUSTER_CHECK_OK(run.checkpointer->Finish());
  }
  // The damage is found, `what` is named, and step 1 is loaded in its place.
  void ExpectPassedBy(const std::string& what, const std::string& trace) {
    SCOPED_TRACE(trace);
    testing::internal::CaptureStderr();
    const auto state = run.Load();
    ASSERT_NE(testing::internal::GetCapturedStderr().find("step-2"), std::string::npos);
    ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
    ASSERT_EQ((*state)->facts.step, 1);
    ASSERT_TRUE(run.Is(1));
    ASSERT_EQ((*state)->passed_by.size(), 1u);
    ASSERT_NE((*state)->passed_by.front().find(what), std::string::npos)
        << (*state)->passed_by.front();
  }
  ScratchDirectory scratch{FastParent()};
  ToyRun run;
};

TEST_F(DamagedCheckpoint, EveryFlippedBitOfAShardIsFound) {
  const std::string good = ReadWhole(run.ShardPath(2));
  const Manifest manifest = *ReadManifest(run.Path(2), kManifestName);
  const StoredShard& shard = manifest.shards.front();
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    WriteWhole(run.ShardPath(2), bad);
    std::string wanted = "its header";
    for (const StoredPiece& piece : shard.pieces) {
      if (static_cast<int64_t>(at) >= piece.offset) wanted = "tensor " + piece.tensor + " ";
    }
    ExpectPassedBy(shard.file + ": " + wanted, "byte " + std::to_string(at));
  }
}

TEST_F(DamagedCheckpoint, EveryTruncationOfAShardIsFound) {
  const std::string good = ReadWhole(run.ShardPath(2));
  for (size_t size = 0; size < good.size(); size += 7) {
    WriteWhole(run.ShardPath(2), good.substr(0, size));
    ExpectPassedBy("shard-00000-of-00001.safetensors: wanted " + std::to_string(good.size()) +
                       " bytes, found " + std::to_string(size) + "; tensor ",
                   "size " + std::to_string(size));
  }
  WriteWhole(run.ShardPath(2), good + "x");
  ExpectPassedBy("shard-00000-of-00001.safetensors: wanted", "one byte more");
}

TEST_F(DamagedCheckpoint, EveryFlippedBitOfTheManifestIsFound) {
  const std::string path = run.Path(2) + "/" + kManifestName, good = ReadWhole(path);
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    WriteWhole(path, bad);
    ExpectPassedBy(kManifestName, "byte " + std::to_string(at));
    WriteWhole(path, good.substr(0, at));
    ExpectPassedBy(kManifestName, "size " + std::to_string(at));
  }
}

TEST_F(DamagedCheckpoint, MissingSwappedAndLinkedFilesAreFound) {
  const std::string shard = run.ShardPath(2), manifest = run.Path(2) + "/" + kManifestName;
  const std::string good = ReadWhole(shard), good_manifest = ReadWhole(manifest);
  fs::remove(shard);
  ExpectPassedBy(shard, "no shard");
  fs::create_symlink(run.ShardPath(1), shard);
  ExpectPassedBy("symlink", "linked shard");
  fs::remove(shard);
  WriteWhole(shard, ReadWhole(run.ShardPath(1)));
  ExpectPassedBy("is damaged", "another step's shard");
  WriteWhole(shard, good);
  WriteWhole(manifest, ReadWhole(run.Path(1) + "/" + kManifestName));
  ExpectPassedBy("is of step 1", "another step's manifest");
  fs::remove(manifest);
  ExpectPassedBy(kManifestName, "no manifest");
  WriteWhole(manifest, good_manifest);
  EXPECT_EQ(LoadedStep(run), 2);
}

TEST_F(DamagedCheckpoint, WithoutAGoodOneIsAnError) {
  WriteWhole(run.ShardPath(1), "");
  WriteWhole(run.ShardPath(2), "");
  const auto state = run.Load();
  EXPECT_TRUE(absl::IsDataLoss(state.status())) << state.status();
  EXPECT_NE(state.status().message().find("step-1"), std::string::npos);
  EXPECT_NE(state.status().message().find("step-2"), std::string::npos);
  EXPECT_TRUE(run.Is(-1));  // nothing was written over the state
}

// Saves steps 1, 2, ... and 3 again, with retention, until `hook` ends it or all is done.
void SaveCycle(const std::string& directory, const DiskHook& hook) {
  ToyRun run(directory, {.keep = 2, .asynchronous = false, .hook = hook});
  for (const int64_t step : {1, 2, 3, 4, 3}) run.Save(step);
}

TEST(Checkpoint, LoadsACommittedStateAfterACrashAtAnyPoint) {
  const ScratchDirectory counting(FastParent());
  int64_t num_calls = 0;
  SaveCycle(counting.path(), [&](const std::string&, const std::string&) {
    ++num_calls;
    return absl::OkStatus();
  });
  ASSERT_GT(num_calls, 50);
  int64_t newest = -1;
  std::set<int64_t> seen;
  for (int64_t crash = 0; crash < num_calls; ++crash) {
    SCOPED_TRACE("crash before call " + std::to_string(crash));
    const ScratchDirectory scratch(FastParent());
    const pid_t child = fork();
    if (child == 0) {
      int64_t calls = 0;
      SaveCycle(scratch.path(), [&](const std::string&, const std::string&) {
        if (calls++ == crash) _exit(7);
        return absl::OkStatus();
      });
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
    ToyRun after(scratch.path(), {.keep = 2, .asynchronous = false});
    const int64_t step = LoadedStep(after);
    ASSERT_GE(step, newest);  // a later crash never loses what an earlier one still had
    newest = std::max(newest, step);
    seen.insert(step);
    // The run goes on, cleans up, and saves again.
    after.Save(9);
    ASSERT_TRUE(after.checkpointer->last().status.ok()) << after.checkpointer->last().status;
    ASSERT_EQ(LoadedStep(after), 9);
    ASSERT_LE(std::distance(fs::directory_iterator(after.checkpoints()), {}), 2);
  }
  EXPECT_EQ(seen, (std::set<int64_t>{-1, 1, 2, 3, 4}));
}

TEST(Checkpoint, TrainingGoesOnWhenAnyCallFails) {
  int64_t failing = 0;
  for (bool failed = true; failed; ++failing) {
    SCOPED_TRACE("failing call " + std::to_string(failing));
    const ScratchDirectory scratch(FastParent());
    int64_t calls = -1;  // before the first save is through
    failed = false;
    const DiskHook hook = [&](const std::string& call, const std::string&) -> absl::Status {
      if (calls < 0 || calls++ != failing) return absl::OkStatus();
      failed = true;
      return absl::ResourceExhaustedError("no space for " + call);
    };
    ToyRun run(scratch.path(), {.keep = 1, .asynchronous = false, .hook = hook});
    run.Save(1);
    calls = 0;
    testing::internal::CaptureStderr();
    for (int64_t step = 2; step <= 4; ++step) {
      run.Save(step);
      const int64_t loaded = LoadedStep(run);
      ASSERT_GE(loaded, run.checkpointer->last().status.ok() ? step : step - 1);
    }
    const bool logged =
        testing::internal::GetCapturedStderr().find("no space") != std::string::npos;
    ASSERT_EQ(logged, failed);
  }
  EXPECT_GT(failing, 40);
}

TEST(Checkpoint, FullDiskLeavesTheOldOneGood) {
  const ScratchDirectory scratch;
  ToyRun run(scratch.path(), {.asynchronous = false});
  run.Save(1);
  rlimit before{}, small{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = {.rlim_cur = 600, .rlim_max = before.rlim_max};  // within the shard
  signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  run.Save(2);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  const absl::Status& status = run.checkpointer->last().status;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("shard-00000-of-00001.safetensors"), std::string::npos) << status;
  EXPECT_EQ(std::distance(fs::directory_iterator(run.checkpoints()), {}), 1);
  EXPECT_EQ(LoadedStep(run), 1);
  run.Save(3);
  EXPECT_EQ(LoadedStep(run), 3);
}

TEST(Checkpoint, AnOverlappedCopyIsDoneBeforeTheStateChanges) {
  for (const kernels::StreamMode mode :
       {kernels::StreamMode::kInline, kernels::StreamMode::kQueue}) {
    const ScratchDirectory scratch(FastParent());
    ToyRun run(scratch.path(), {.keep = 9, .overlap_copy = true}, mode);
    run.Become(1);
    for (int64_t step = 1; step <= 20; ++step) {
      ASSERT_TRUE(run.checkpointer->Save(ToyRun::FactsOf(step)).ok());
      run.checkpointer->BeforeUpdate();
      run.Become(step + 1);
      run.checkpointer->BeforeUpdate();  // once more does no harm
    }
    ASSERT_TRUE(run.checkpointer->Finish().ok());
    for (int64_t step = 20; step > 12; --step) {
      ASSERT_EQ(LoadedStep(run), step);
      fs::remove_all(run.Path(step));
    }
  }
}

TEST(Checkpoint, AfterFailuresItTriesAgainMoreAndMoreSeldom) {
  const ScratchDirectory scratch(FastParent());
  std::vector<int64_t> tried;
  int64_t now = 0;
  const DiskHook full = [&](const std::string& call, const std::string&) -> absl::Status {
    if (call != "open" || (!tried.empty() && tried.back() == now)) return absl::OkStatus();
    tried.push_back(now);
    return now < 45 ? absl::ResourceExhaustedError("no space") : absl::OkStatus();
  };
  ToyRun run(scratch.path(), {.every_steps = 1, .asynchronous = false, .hook = full});
  testing::internal::CaptureStderr();
  for (now = 1; now <= 50; ++now) {
    run.Become(now);
    ASSERT_TRUE(run.checkpointer->MaybeSave(ToyRun::FactsOf(now)).ok());
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(tried, (std::vector<int64_t>{1, 2, 4, 8, 16, 24, 32, 40, 48, 49, 50}));
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("no space", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 8u) << log;  // one of each try that failed
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{50, 49, 48}));
}

TEST(Checkpoint, NothingBecomesVisibleBeforeItIsDurable) {
  const ScratchDirectory scratch;
  std::vector<std::string> trace;
  ToyRun run(scratch.path(),
             {.asynchronous = false, .hook = [&](const std::string& call, const std::string& path) {
                trace.push_back(call + " " + fs::path(path).filename().string());
                return absl::OkStatus();
              }});
  run.Save(5);
  const auto last = [&](const std::string& entry) {
    const auto found = std::find(trace.rbegin(), trace.rend(), entry);
    EXPECT_NE(found, trace.rend()) << entry;
    return std::distance(found, trace.rend());
  };
  const std::string shard = "shard-00000-of-00001.safetensors";
  EXPECT_LT(last("write " + shard), last("fsync " + shard));
  EXPECT_LT(last("fsync " + shard), last("write manifest.json"));
  EXPECT_LT(last("write manifest.json"), last("fsync manifest.json"));
  EXPECT_LT(last("fsync manifest.json"), last("fsync step-5.attempt-0.partial"));
  EXPECT_LT(last("fsync step-5.attempt-0.partial"), last("rename step-5"));
  EXPECT_LT(last("rename step-5"), last("fsync checkpoints"));
  EXPECT_LT(last("fsync " + fs::path(scratch.path()).filename().string()),  // it has a new entry
            last("rename step-5"));
}

}  // namespace
}  // namespace muster::runtime
