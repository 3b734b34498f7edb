// A run that is killed at any system call of a whole attempt, from its lock, config and epoch over
// saves and their commits to retention and the next attempt, goes on: from a committed state, as a
// later attempt. And a disk that is really full does it no harm.
#include "tests/support/runtime/crash_points.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <iostream>

#include "runtime/checkpoint/memory_restore.h"
#include "runtime/checkpoint/memory_store.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/job/run_directory.h"
#include "tests/support/runtime/scratch_directory.h"
#include "tests/support/runtime/toy_run.h"
#include "tests/support/sanitizers.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

const ResolvedJob& Job() {
  static const ResolvedJob* const job = [] {
    auto* made = new ResolvedJob;
    std::vector<ConfigProblem> problems;
    const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto";
    MUSTER_CHECK(LoadJob(path, {}, 1, made, &problems)) << Describe(problems, path);
    return made;
  }();
  return *job;
}

// One attempt, as a rank makes it: takes the run, restores, saves `saves` more steps.
struct Attempt {
  Attempt(const std::string& run, int saves) {
    const auto alone = parallel::World::Alone();
    auto directory = PrepareRunDirectory({.path = run}, Job(), *alone);
    MUSTER_CHECK(directory.ok()) << directory.status();
    number = directory->attempt;
    MUSTER_CHECK_OK(RemoveLeftovers(Disk(), run + "/checkpoints", number));
    ToyRun toy(
        run, {.keep = 2, .asynchronous = false, .fence = [&] { return CheckEpoch(run, number); }});
    const auto state = toy.Load();
    MUSTER_CHECK(state.ok()) << state.status();
    if (state->has_value()) first = (*state)->facts.step;
    MUSTER_CHECK(first == 0 || toy.Is(first)) << first;
    for (int i = 1; i <= saves; ++i) {
      toy.Become(first + i);
      CheckpointFacts facts = ToyRun::FactsOf(first + i);
      facts.attempt = number;
      MUSTER_CHECK_OK(toy.checkpointer->Save(facts));
      MUSTER_CHECK_OK(toy.checkpointer->last().status);
    }
  }
  int number = -1;
  int64_t first = 0;  // the step that it went on from; 0: none
};

TEST(CrashPoints, EverySystemCallOfARunLeavesACommittedStateAndALaterAttempt) {
  const auto two_attempts = [](const std::string& run) {
    Attempt(run, 3);
    return Attempt(run, 2).first == 3 ? 0 : 1;
  };
  const ScratchDirectory counting(FastParent());
  const CrashOutcome whole =
      RunUntilCall(INT64_MAX, [&] { return two_attempts(counting.File("run")); });
  if (!whole.traced) GTEST_SKIP() << "this host does not let processes be traced";
  ASSERT_EQ(whole.exit_code, 0);
  ASSERT_GT(whole.calls, 100);
  std::cout << whole.calls << " points" << std::endl;
  int64_t newest = 0;
  int last_number = 0;
  for (int64_t call = 0; call < whole.calls; ++call) {
    SCOPED_TRACE("killed before call " + std::to_string(call));
    const ScratchDirectory scratch(FastParent());
    const std::string run = scratch.File("run");
    const CrashOutcome outcome = RunUntilCall(call, [&] { return two_attempts(run); });
    ASSERT_TRUE(outcome.crashed) << outcome.exit_code;
    const Attempt after(run, 1);
    ASSERT_GE(after.first, newest);  // a later crash never loses what an earlier one still had
    ASSERT_GE(after.number, last_number);
    ASSERT_TRUE(CheckEpoch(run, after.number).ok());
    ASSERT_TRUE(after.number == 0 || absl::IsAborted(CheckEpoch(run, after.number - 1)));
    newest = after.first;
    last_number = after.number;
    ASSERT_EQ(Attempt(run, 0).first, newest + 1);
    for (const fs::directory_entry& entry : fs::directory_iterator(run)) {
      ASSERT_EQ(entry.path().string().find(".partial-"), std::string::npos) << entry;
    }
    ASSERT_LE(std::distance(fs::directory_iterator(run + "/checkpoints"), {}), 2);
  }
  EXPECT_EQ(newest, 5);
  EXPECT_EQ(last_number, 2);
}

// A disk whose names cannot be exchanged (NFS), and a run that keeps one checkpoint: its only one
// is replaced, twice.
TEST(CrashPoints, WithoutExchangeTheOnlyCheckpointOutlivesItsReplacement) {
  const DiskHook no_exchange = [](const std::string& call, const std::string& path) {
    return call == "exchange" ? absl::UnimplementedError(path) : absl::OkStatus();
  };
  const auto saves = [&](const std::string& directory) {
    ToyRun run(directory, {.keep = 1, .asynchronous = false, .hook = no_exchange});
    for (int i = 0; i < 3; ++i) {
      run.Save(4);
      if (!run.checkpointer->last().status.ok()) return 1;
    }
    return 0;
  };
  const ScratchDirectory counting(FastParent());
  const CrashOutcome whole = RunUntilCall(INT64_MAX, [&] { return saves(counting.path()); });
  if (!whole.traced) GTEST_SKIP() << "this host does not let processes be traced";
  ASSERT_EQ(whole.exit_code, 0);
  bool committed = false;
  int came_back = 0;
  for (int64_t call = 0; call < whole.calls; ++call) {
    SCOPED_TRACE("killed before call " + std::to_string(call));
    const ScratchDirectory scratch(FastParent());
    ASSERT_TRUE(RunUntilCall(call, [&] { return saves(scratch.path()); }).crashed);
    ToyRun run(scratch.path(), {.keep = 1, .asynchronous = false, .hook = no_exchange});
    came_back += fs::exists(run.Path(4)) || !committed ? 0 : 1;
    MUSTER_CHECK_OK(RemoveLeftovers(Disk(), run.checkpoints(), 0));
    const auto state = run.Load();
    ASSERT_TRUE(state.ok()) << state.status();
    ASSERT_TRUE(state->has_value() || !committed);  // a later crash loses nothing
    committed = state->has_value();
    ASSERT_TRUE(!committed || run.Is(4));
    run.Save(5);
    ASSERT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
    ASSERT_EQ(std::distance(fs::directory_iterator(run.checkpoints()), {}), 1);
  }
  EXPECT_TRUE(committed);
  EXPECT_GE(came_back, 2);  // the moment between two renames was hit in each replacement
}

// An attempt that was replaced in that moment puts the name back, or the one after it does.
TEST(CrashPoints, WithoutExchangeAnAttemptThatWasTakenOverLeavesTheCheckpoint) {
  const ScratchDirectory scratch(FastParent());
  for (const bool takes_over : {false, true}) {
    ToyRun run(scratch.path(),
               {.keep = 1,
                .asynchronous = false,
                .hook = [&](const std::string& call, const std::string& path) -> absl::Status {
                  if (call == "exchange") return absl::UnimplementedError(path);
                  if (takes_over && call == "rename" && path.ends_with("/step-4")) {
                    fs::remove_all(path + ".attempt-0.partial");
                  }
                  return absl::OkStatus();
                }});
    run.Save(4);
    EXPECT_EQ(run.checkpointer->last().status.ok(), !takes_over);
    EXPECT_EQ(*ListCheckpoints(run.checkpoints()), std::vector<int64_t>{4});
    const auto state = run.Load();
    ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
    EXPECT_TRUE(run.Is(4));
  }
}

// Saves three snapshots into memory; returns what a restart finds.
int64_t NewestInMemory(const std::string& directory, int64_t saves) {
  const auto alone = parallel::World::Alone();
  const auto site = MemorySite::Open({.run_directory = directory, .root = directory}, *alone);
  MUSTER_CHECK(site.ok()) << site.status();
  const auto found = FindInMemory(**site);
  MUSTER_CHECK(found.ok()) << found.status();
  int64_t step = found->empty() ? 0 : found->front().step;
  if (!found->empty()) MUSTER_CHECK_OK(PutTogether(found->front(), **site).status());
  MUSTER_CHECK_OK(KeepOnlyInMemory(step, **site));
  const auto store = MakeMemoryStore(**site);
  const std::vector<float> values(100, 1.5f);
  for (int64_t i = 1; i <= saves; ++i) {
    SaveReport report{.facts = ToyRun::FactsOf(step + i)};
    const HostPiece piece{"weight/w", kernels::DType::kFloat32, LogicalRange::Whole({100}),
                          values.data()};
    report.status = store->Save({piece}, nullptr, &report);
    MUSTER_CHECK_OK(report.status);
    store->Ended(report);
  }
  return step;
}

TEST(CrashPoints, EverySystemCallOfTheTierInMemoryLeavesACommittedSnapshot) {
  SKIP_UNDER_SANITIZERS("counts system calls, and the sanitizer makes some of its own");
  const auto body = [](const std::string& directory) {
    NewestInMemory(directory, 3);
    return NewestInMemory(directory, 1) == 3 ? 0 : 1;
  };
  const ScratchDirectory counting(FastParent());
  const CrashOutcome whole = RunUntilCall(INT64_MAX, [&] { return body(counting.path()); });
  if (!whole.traced) GTEST_SKIP() << "this host does not let processes be traced";
  ASSERT_EQ(whole.exit_code, 0);
  int64_t newest = 0;
  for (int64_t call = 0; call < whole.calls; ++call) {
    SCOPED_TRACE("killed before call " + std::to_string(call));
    const ScratchDirectory scratch(FastParent());
    ASSERT_TRUE(RunUntilCall(call, [&] { return body(scratch.path()); }).crashed);
    const int64_t step = NewestInMemory(scratch.path(), 1);
    ASSERT_GE(step, newest);
    newest = step;
    ASSERT_EQ(NewestInMemory(scratch.path(), 0), step + 1);
  }
  EXPECT_EQ(newest, 4);
}

// In a process of its own. Full for steps 4 to 9, then there is room again.
void SaveOnAFullDisk(const std::string& directory, bool limit_files) {
  ToyRun run(directory, {.every_steps = 1, .keep = 2, .asynchronous = false});
  for (int64_t step = 1; step <= 3; ++step) run.Save(step);
  ASSERT_TRUE(run.checkpointer->last().status.ok()) << run.checkpointer->last().status;
  const std::string filler = directory + "/filler";
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  if (limit_files) {
    const rlimit small{.rlim_cur = 600, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  } else {
    std::ofstream file(filler, std::ios::binary);
    while (file.write(std::string(1024, 'x').c_str(), 1024).flush()) {
    }
  }
  testing::internal::CaptureStderr();
  int tried = 0;
  for (int64_t step = 4; step <= 9; ++step) {
    run.Become(step);
    const auto saves = run.checkpointer->MaybeSave(ToyRun::FactsOf(step));
    ASSERT_TRUE(saves.ok()) << saves.status();
    if (!*saves) continue;
    ++tried;
    EXPECT_TRUE(absl::IsResourceExhausted(run.checkpointer->last().status))
        << run.checkpointer->last().status;
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(tried, 3);  // at 4, 5 and 7
  int lines = 0;
  for (size_t at = 0; (at = log.find("is not saved; training goes on", at)) != std::string::npos;
       ++at) {
    ++lines;
  }
  EXPECT_EQ(lines, tried) << log;
  EXPECT_NE(log.find(limit_files ? "File too large" : "No space left on device"), std::string::npos)
      << log;
  const auto state = run.Load();
  ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
  EXPECT_EQ((*state)->facts.step, 3);
  EXPECT_TRUE(run.Is(3));
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{3, 2}));
  fs::remove(filler);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  for (int64_t step = 10; step <= 12; ++step) {
    run.Become(step);
    ASSERT_TRUE(run.checkpointer->MaybeSave(ToyRun::FactsOf(step)).ok());
  }
  EXPECT_EQ(*ListCheckpoints(run.checkpoints()), (std::vector<int64_t>{12, 11}));
}

TEST(FullDisk, TrainingGoesOnAndTheOldCheckpointsStay) {
  const ScratchDirectory scratch(FastParent());
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const bool mounted = (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
                         mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         mount("small", scratch.path().c_str(), "tmpfs", 0, "size=96k") == 0;
    std::cout << "the full disk is " << (mounted ? "a tmpfs of 96 KiB" : "a limit on file sizes")
              << std::endl;
    SaveOnAFullDisk(scratch.path(), !mounted);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace muster::runtime
