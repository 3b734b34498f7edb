// A run directory has one writer at a time; an attempt that was replaced is told so; a run goes on
// only as the same experiment.
#include "runtime/job/run_directory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "kernels/base/error.h"
#include "runtime/job/config_difference.h"
#include "tests/support/runtime/file_size_limit.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

const std::string kTinyMoe = MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto";

ResolvedJob JobWith(const std::vector<std::string>& overrides = {}) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(kTinyMoe, overrides, 1, &job, &problems)) << Describe(problems, kTinyMoe);
  return job;
}

absl::StatusOr<RunDirectory> Prepare(const RunDirectoryOptions& options,
                                     const ResolvedJob& job = JobWith()) {
  const auto alone = parallel::World::Alone();
  return PrepareRunDirectory(options, job, *alone);
}

// What the next attempt on a run is told.
absl::Status Try(const std::string& run, const ResolvedJob& job) {
  return Prepare({.path = run}, job).status();
}

void ExpectNamed(const absl::Status& status, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in: " << status;
  }
}

TEST(RunLock, ASecondJobIsRefusedWithinTwoSecondsAndToldWhoHoldsIt) {
  const ScratchDirectory scratch;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto held = Prepare({.path = scratch.File("run")});
    if (write(ready[1], held.ok() ? "y" : "n", 1) != 1) _exit(1);
    pause();
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  ASSERT_EQ(answer, 'y');
  const auto begin = std::chrono::steady_clock::now();
  const absl::Status refused = Try(scratch.File("run"), JobWith());
  EXPECT_LE(std::chrono::steady_clock::now() - begin, milliseconds(3000));  // 1.5 s on a calm host
  EXPECT_TRUE(absl::IsAborted(refused)) << refused;
  ExpectNamed(refused, {"process " + std::to_string(child), "attempt 0"});
  // The kernel gives the lock back when its holder is killed.
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  const auto next = Prepare({.path = scratch.File("run")});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->attempt, 1);
}

TEST(RunLock, AHolderThatIsAboutToEndIsWaitedFor) {
  const ScratchDirectory scratch;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto held = RunLock::Take(scratch.path());
    if (write(ready[1], "y", 1) != 1) _exit(1);
    usleep(300'000);
    _exit(held.ok() ? 0 : 1);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  EXPECT_TRUE(RunLock::Take(scratch.path(), milliseconds(10'000)).ok());
  waitpid(child, nullptr, 0);
}

// A process that holds the lock, and is stopped: nothing but its end frees it.
class StoppedHolder {
 public:
  StoppedHolder(const std::string& run, std::optional<SupervisedStart> start) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    child_ = fork();
    if (child_ == 0) {
      const auto held = RunLock::Take(run, milliseconds(0), start);
      const bool began = held.ok() && (*held)->BeginAttempt().ok();
      if (write(ready[1], began ? "y" : "n", 1) != 1) _exit(1);
      raise(SIGSTOP);
      _exit(0);
    }
    char answer = 0;
    EXPECT_EQ(read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    EXPECT_EQ(waitpid(child_, nullptr, WUNTRACED), child_);
    close(ready[0]);
    close(ready[1]);
  }
  ~StoppedHolder() { End(); }
  void End() {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
  }

 private:
  pid_t child_ = -1;
};

TEST(RunLock, ASupervisorsAttemptTakesOverFromAnOrphanThatHoldsTheLock) {
  const std::pair<SupervisedStart, SupervisedStart> kCases[] = {
      {{.supervisor = 0, .attempt = 3}, {.supervisor = 0, .attempt = 4}},
      {{.supervisor = 0, .attempt = 9}, {.supervisor = 1, .attempt = 10}}};
  for (const auto& [earlier, later] : kCases) {
    const ScratchDirectory scratch;
    StoppedHolder orphan(scratch.path(), earlier);
    const auto lock = RunLock::Take(scratch.path(), milliseconds(50), later);
    ASSERT_TRUE(lock.ok()) << lock.status();
    EXPECT_EQ(*(*lock)->BeginAttempt(), later.attempt);
    EXPECT_TRUE(absl::IsAborted(CheckEpoch(scratch.path(), earlier.attempt)));
    for (const bool orphan_lives : {true, false}) {
      const auto third = RunLock::Take(scratch.path(), milliseconds(0));
      EXPECT_TRUE(absl::IsAborted(third.status())) << "the new attempt holds it: " << orphan_lives;
      ExpectNamed(third.status(),
                  {"process " + std::to_string(getpid()),
                   "attempt " + std::to_string(later.attempt) + " of muster launch"});
      orphan.End();
    }
    EXPECT_EQ(scratch.NumEntries(), 2) << "the lock and the epoch";
  }
}

TEST(RunLock, NobodyElseIsTakenOverFrom) {
  using Start = std::optional<SupervisedStart>;
  const Start earlier = SupervisedStart{.supervisor = 0, .attempt = 3};
  const Start later = SupervisedStart{.supervisor = 1, .attempt = 0};
  const std::pair<Start, Start> kCases[] = {
      {std::nullopt, later},    // a job without a supervisor is no orphan of ours
      {earlier, std::nullopt},  // nor does such a one know that it is later
      {earlier, earlier},
      {later, earlier}};
  for (const auto& [holder, other] : kCases) {
    const ScratchDirectory scratch;
    const StoppedHolder held(scratch.path(), holder);
    EXPECT_TRUE(absl::IsAborted(RunLock::Take(scratch.path(), milliseconds(50), other).status()));
  }
}

// What waited for the lock while it was replaced must not take the one that has no name any more.
TEST(RunLock, ALockThatWasReplacedIsWorthNothing) {
  const ScratchDirectory scratch;
  StoppedHolder orphan(scratch.path(), SupervisedStart{.attempt = 0});
  std::thread ends_later([&orphan] {
    std::this_thread::sleep_for(milliseconds(300));
    orphan.End();
  });
  std::unique_ptr<RunLock> taken;
  std::thread takes_over([&] {
    auto lock = RunLock::Take(scratch.path(), milliseconds(100), SupervisedStart{.attempt = 1});
    if (lock.ok()) taken = *std::move(lock);
  });
  EXPECT_TRUE(absl::IsAborted(RunLock::Take(scratch.path(), milliseconds(800)).status()));
  takes_over.join();
  ends_later.join();
  EXPECT_NE(taken, nullptr);
}

TEST(RunLock, AnAttemptOfASupervisorThatComesTooLateIsRefused) {
  const ScratchDirectory scratch;
  EXPECT_EQ(*(*RunLock::Take(scratch.path()))->BeginAttempt(), 0);
  const auto late = RunLock::Take(scratch.path(), milliseconds(0), SupervisedStart{.attempt = 0});
  ASSERT_TRUE(late.ok());
  EXPECT_TRUE(absl::IsAborted((*late)->BeginAttempt().status()));
  EXPECT_TRUE(CheckEpoch(scratch.path(), 0).ok()) << "the attempt that has begun stands";
}

TEST(RunLock, AttemptsCountUpAndOnlyTheNewestMayCommit) {
  const ScratchDirectory scratch;
  EXPECT_TRUE(CheckEpoch(scratch.path(), 0).ok());  // nothing to fence yet
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto lock = RunLock::Take(scratch.path());
    ASSERT_TRUE(lock.ok()) << lock.status();
    EXPECT_EQ(*(*lock)->BeginAttempt(), attempt);
    EXPECT_TRUE(CheckEpoch(scratch.path(), attempt).ok());
    if (attempt > 0) {
      const absl::Status stale = CheckEpoch(scratch.path(), attempt - 1);
      EXPECT_TRUE(absl::IsAborted(stale)) << stale;
      ExpectNamed(stale, {"attempt " + std::to_string(attempt)});
    }
  }
}

TEST(RunLock, AttemptsCountOnWhereLedgersAreEvenWithoutAnEpoch) {
  const ScratchDirectory scratch;
  fs::create_directories(scratch.File("ledger/attempt-7"));
  fs::create_directories(scratch.File("ledger/attempt-x"));
  EXPECT_EQ(*(*RunLock::Take(scratch.path()))->BeginAttempt(), 8);
  scratch.Write("epoch", "");
  EXPECT_TRUE(absl::IsDataLoss(CheckEpoch(scratch.path(), 8)));
  EXPECT_TRUE(absl::IsDataLoss((*RunLock::Take(scratch.path()))->BeginAttempt().status()));
}

TEST(RunLock, AnEpochThatCannotBeReadDoesNotOpenTheFence) {
  const ScratchDirectory scratch;
  fs::create_symlink(scratch.File("loop"), scratch.File("loop"));
  fs::create_symlink(scratch.File("nowhere"), scratch.File("epoch"));
  for (const std::string& run : {scratch.File("loop"), scratch.path()}) {
    const absl::Status fenced = CheckEpoch(run, 8);
    EXPECT_TRUE(absl::IsUnavailable(fenced)) << fenced;
    ExpectNamed(fenced, {run + "/epoch"});
    EXPECT_TRUE(absl::IsUnavailable(NextEpoch(run).status()));
  }
}

TEST(RunDirectory, ARunGoesOnWithTheSameConfigAndItsAttemptsAreCounted) {
  const ScratchDirectory scratch;
  const std::string run = scratch.File("a/b/run");
  EXPECT_EQ(Prepare({.path = run})->attempt, 0);
  scratch.Write("a/b/run/config.textproto.partial-1-2", "torn");
  EXPECT_EQ(Prepare({.path = run})->attempt, 1);
  EXPECT_FALSE(fs::exists(run + "/config.textproto.partial-1-2"));
  EXPECT_FALSE(fs::exists(run + "/config.attempt-1.textproto"));
  const ResolvedJob longer = JobWith({"train.steps=77", "zero.level=0", "checkpoint.keep=9"});
  EXPECT_EQ(Prepare({.path = run}, longer)->attempt, 2);
  EXPECT_EQ(ReadWhole(run + "/config.attempt-2.textproto"), longer.text);
  EXPECT_EQ(ReadWhole(run + "/config.textproto"), JobWith().text);
}

TEST(RunDirectory, AnotherExperimentIsRefusedFieldByField) {
  const ScratchDirectory scratch;
  const std::string run = scratch.File("run");
  ASSERT_TRUE(Prepare({.path = run}).ok());
  const absl::Status refused =
      Try(run, JobWith({"model.hidden=32", "train.seed=5", "optimizer.beta1=0.8",
                        "train.global_batch_sequences=32", "train.steps=9"}));
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  ExpectNamed(refused,
              {"model.hidden: 64 -> 32", "train.seed: 1234 -> 5", "optimizer.beta1: 0.9 -> 0.8",
               "train.global_batch_sequences: 16 -> 32", "--resume"});
  EXPECT_EQ(refused.message().find("train.steps"), std::string::npos) << refused;
  EXPECT_EQ(Prepare({.path = run})->attempt, 1);  // the refused one was none
}

TEST(RunDirectory, AStartOnAFullDiskSaysSoAndRemovesOnlyWhatItMade) {
  const ScratchDirectory scratch;
  const std::string old = scratch.File("old");
  ASSERT_TRUE(Prepare({.path = old}).ok());
  {
    const FileSizeLimit full(0);
    const absl::Status fresh = Try(scratch.File("a/b/new"), JobWith());
    EXPECT_TRUE(absl::IsResourceExhausted(fresh)) << fresh;
    ExpectNamed(fresh, {"a/b/new/config.textproto", "File too large"});
    const absl::Status again = Try(old, JobWith());
    EXPECT_TRUE(absl::IsResourceExhausted(again)) << again;
    ExpectNamed(again, {"old/epoch"});
  }
  EXPECT_EQ(scratch.NumEntries(), 1);
  const auto next = Prepare({.path = old});
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(next->attempt, 1);
}

TEST(RunDirectory, AStartThatMeetsAnotherJobInADirectoryOfItsOwnLeavesIt) {
  const ScratchDirectory scratch;
  const std::string run = scratch.File("a/run");
  fs::create_directories(run);
  const auto other = RunLock::Take(run);
  ASSERT_TRUE(other.ok());
  EXPECT_TRUE(absl::IsAborted(Try(run, JobWith())));
  EXPECT_TRUE(fs::exists(run + "/run.lock"));
}

TEST(RunDirectory, NeverRefusesARunThatIsThere) {
  const ScratchDirectory scratch;
  const RunDirectoryOptions never{.path = scratch.File("run"), .resume = ResumeMode::kNever};
  ASSERT_TRUE(Prepare(never).ok());
  const absl::Status refused = Prepare(never).status();
  EXPECT_TRUE(absl::IsAlreadyExists(refused)) << refused;
}

TEST(RunDirectory, ANewRunRemembersWhereItStartedFrom) {
  const ScratchDirectory scratch;
  ASSERT_TRUE(Prepare({.path = scratch.File("old")}).ok());
  RunDirectoryOptions from{
      .path = scratch.File("new"), .resume = ResumeMode::kFrom, .start_from = scratch.File("old")};
  // Nothing to start from yet; nothing is left behind.
  EXPECT_TRUE(absl::IsNotFound(Prepare(from).status()));
  EXPECT_FALSE(fs::exists(from.path));
  fs::create_directories(scratch.File("old/checkpoints"));
  const absl::Status other = Prepare(from, JobWith({"model.hidden=32"})).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  ExpectNamed(other, {"model.hidden: 64 -> 32"});
  EXPECT_FALSE(fs::exists(from.path));
  EXPECT_EQ(Prepare(from, JobWith({"train.seed=5"}))->start_from, scratch.File("old"));
  EXPECT_TRUE(absl::IsAlreadyExists(Prepare(from).status()));
  // An attempt that died before its first checkpoint must not begin from nothing.
  const auto again = Prepare({.path = from.path}, JobWith({"train.seed=5"}));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->start_from, scratch.File("old"));
}

TEST(ConfigDifference, NamesEveryFieldThatDiffersAndNoOther) {
  Job first = JobWith().job, second = first;
  EXPECT_TRUE(Differences(first, second).empty());
  second.mutable_optimizer()->set_epsilon(1e-7);
  second.mutable_data()->clear_synthetic();
  second.mutable_data()->add_train_files("a");
  second.mutable_data()->add_train_files("b");
  std::string text;
  for (const FieldDifference& each : Differences(first, second)) {
    text += each.path + "|" + each.first + "|" + each.second + "\n";
    EXPECT_FALSE(MayChangeOnResume(each.path)) << each.path;
  }
  EXPECT_NE(text.find("optimizer.epsilon|1e-08|1e-07"), std::string::npos) << text;
  EXPECT_NE(text.find("data.train_files|(none)|\"a\", \"b\""), std::string::npos) << text;
  EXPECT_NE(text.find("data.synthetic.tokens|"), std::string::npos) << text;
  EXPECT_TRUE(MayChangeOnResume("mesh.dp"));
  EXPECT_TRUE(MayChangeOnResume("train.steps"));
  EXPECT_FALSE(MayChangeOnResume("model.moe.experts"));
}

}  // namespace
}  // namespace muster::runtime
