#include "runtime/goodput/ledger.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <string>
#include <thread>

#include "kernels/device/span.h"
#include "runtime/goodput/attribution.h"
#include "runtime/goodput/background_sync.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/goodput/ledger_record.h"
#include "tests/support/runtime/file_size_limit.h"
#include "tests/support/runtime/scratch_directory.h"
#include "tests/support/sanitizers.h"

namespace muster::runtime {
namespace {

AttemptBegin ExampleBegin(int rank = 0, int world_size = 1) {
  AttemptBegin begin;
  begin.rank = rank;
  begin.world_size = world_size;
  begin.peak_flops = 1e12;
  begin.peak_label = "test peak";
  begin.host = "host-a";
  begin.config_hash = 42;
  begin.process_start_monotonic_ns = kernels::MonotonicNs() - 1'000'000;
  return begin;
}

StepEnd ExampleStep(int64_t step) {
  StepEnd end;
  end.step = step;
  end.loss_bits = 0x4010000000000000;
  end.grad_norm_bits = 0x3ff0000000000000;
  end.model_flops = 5e9;
  end.hardware_flops = 6e9;
  end.tokens = 512;
  end.first_sequence = 8 * step;
  end.num_sequences = 8;
  end.time_ns[parallel::kCompute] = 900;
  end.time_ns[parallel::kExposedDp] = 100;
  return end;
}

std::unique_ptr<LedgerWriter> MustCreate(const std::string& run, const AttemptBegin& begin) {
  auto writer = LedgerWriter::Create(run, begin);
  EXPECT_TRUE(writer.ok()) << writer.status();
  return writer.ok() ? *std::move(writer) : nullptr;
}

// A whole attempt: start-up, two steps, evaluation, a skipped step, the end.
void WriteExample(const std::string& run, const AttemptBegin& begin) {
  const auto writer = MustCreate(run, begin);
  writer->Enter(State::kInitRuntime);
  writer->Enter(State::kInitModel);
  for (int64_t step = 1; step <= 2; ++step) {
    writer->StepBegin(step);
    writer->StepEnded(ExampleStep(step));
  }
  writer->Enter(State::kEval);
  writer->StepBegin(3);
  StepEnd skipped = ExampleStep(3);
  skipped.skipped = true;
  writer->StepEnded(skipped);
  writer->Enter(State::kTeardown);
  writer->End(0);
  EXPECT_TRUE(writer->status().ok());
}

std::string PathOf(const std::string& run, int attempt = 0, int rank = 0) {
  return AttemptDirectory(run, attempt) + "/" + LedgerFileName(rank);
}

TEST(Ledger, WhatIsWrittenIsReadBack) {
  const ScratchDirectory scratch;
  WriteExample(scratch.path(), ExampleBegin());
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_TRUE(ledger->notes.empty()) << ledger->notes[0];
  ASSERT_EQ(ledger->log.attempts.size(), 1u);
  const RankLog& rank = ledger->log.attempts[0].ranks.at(0);
  EXPECT_EQ(rank.host, "host-a");
  EXPECT_EQ(rank.peak_label, "test peak");
  EXPECT_EQ(rank.peak_flops, 1e12);
  EXPECT_EQ(rank.exit_code, 0);
  std::vector<State> states;
  for (const Phase& phase : rank.phases) states.push_back(phase.state);
  EXPECT_EQ(states,
            (std::vector<State>{State::kInitRuntime, State::kInitModel, State::kStep,
                                State::kUnknown, State::kStep, State::kUnknown, State::kEval,
                                State::kStep, State::kUnknown, State::kTeardown}));
  ASSERT_EQ(rank.steps.size(), 3u);
  EXPECT_EQ(rank.steps[1].step, 2);
  EXPECT_EQ(rank.steps[1].loss_bits, 0x4010000000000000u);
  EXPECT_EQ(rank.steps[1].grad_norm_bits, 0x3ff0000000000000u);
  EXPECT_EQ(rank.steps[1].model_flops, 5e9);
  EXPECT_EQ(rank.steps[1].hardware_flops, 6e9);
  EXPECT_EQ(rank.steps[1].tokens, 512);
  EXPECT_EQ(rank.steps[1].first_sequence, 16);
  EXPECT_EQ(rank.steps[1].num_sequences, 8);
  EXPECT_FALSE(rank.steps[1].skipped);
  EXPECT_TRUE(rank.steps[2].skipped);
  const auto attribution = Attribute(ledger->log);
  ASSERT_TRUE(attribution.ok()) << attribution.status();
  EXPECT_GE(attribution->total.At(State::kLaunch), 1'000'000);  // since the process start
}

TEST(Ledger, CheckpointsAndSkipsAreReadBack) {
  const ScratchDirectory scratch;
  const CheckpointId restored{.step = 40, .attempt = 2};
  const CheckpointId saved{.step = 60, .attempt = 3};
  AttemptBegin begin = ExampleBegin();
  begin.attempt = 3;
  {
    const auto writer = MustCreate(scratch.path(), begin);
    writer->Enter(State::kCheckpointLoad);
    writer->Checkpoint({.act = CheckpointAct::kRestore, .id = restored, .bytes = 77});
    writer->StepBegin(41);
    writer->Checkpoint({.act = CheckpointAct::kSnapshot, .id = saved, .parent = restored});
    writer->Skip(41, "rank 3: gradient of layers.2.attention.qkv.weight is not finite" +
                         std::string(99, '.'));
    writer->StepEnded(ExampleStep(41));
    writer->Checkpoint({CheckpointAct::kCommit, saved, restored, 1234});
    writer->Checkpoint({.act = CheckpointAct::kFail, .id = saved});
    writer->End(0);
  }
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_TRUE(ledger->notes.empty()) << ledger->notes[0];
  const AttemptLog& attempt = ledger->log.attempts.at(0);
  EXPECT_EQ(attempt.resume_step, 41);
  const RankLog& rank = attempt.ranks.at(0);
  ASSERT_EQ(rank.checkpoints.size(), 4u);
  EXPECT_EQ(rank.checkpoints[0].event.act, CheckpointAct::kRestore);
  EXPECT_EQ(rank.checkpoints[0].event.bytes, 77);
  EXPECT_EQ(rank.checkpoints[1].event.parent, restored);
  EXPECT_EQ(rank.checkpoints[2].event.id, saved);
  EXPECT_EQ(rank.checkpoints[2].event.bytes, 1234);
  EXPECT_EQ(rank.checkpoints[3].event.act, CheckpointAct::kFail);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_GE(rank.checkpoints[i].at_ns, rank.checkpoints[i - 1].at_ns);
  }
  ASSERT_EQ(rank.skips.size(), 1u);
  EXPECT_EQ(rank.skips[0].step, 41);
  EXPECT_EQ(rank.skips[0].reason.size(), kMaxReasonBytes);
  EXPECT_TRUE(rank.skips[0].reason.starts_with("rank 3: gradient of"));
}

// Else the steps of the attempt before it would count as productive until one is repeated.
TEST(Ledger, ARestoreTellsTheFirstStepOfAnAttemptThatBeganNone) {
  const ScratchDirectory scratch;
  {
    const auto first = MustCreate(scratch.path(), ExampleBegin());
    for (int64_t step = 1; step <= 5; ++step) {
      first->StepBegin(step);
      first->StepEnded(ExampleStep(step));
    }
  }
  AttemptBegin begin = ExampleBegin();
  begin.attempt = 1;
  MustCreate(scratch.path(), begin)
      ->Checkpoint({.act = CheckpointAct::kRestore, .id = {.step = 2, .attempt = 0}});
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  const auto attribution = Attribute(ledger->log);
  ASSERT_TRUE(attribution.ok()) << attribution.status();
  EXPECT_EQ(attribution->productive_steps, 2);
}

TEST(Ledger, FilesAreExclusiveAndPrivate) {
  const ScratchDirectory scratch;
  const auto writer = MustCreate(scratch.path(), ExampleBegin());
  struct stat facts {};
  ASSERT_EQ(stat(PathOf(scratch.path()).c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0600u);
  const auto second = LedgerWriter::Create(scratch.path(), ExampleBegin());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(LedgerWriter::Create("/proc/no", ExampleBegin()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Ledger, AWriterThatGoesAwayClosesItsAttempt) {
  const ScratchDirectory scratch;
  MustCreate(scratch.path(), ExampleBegin())->Enter(State::kInitModel);
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok());
  EXPECT_EQ(ledger->log.attempts[0].ranks[0].exit_code, kNoExitCode);
}

TEST(Ledger, AKilledProcessLeavesItsRecords) {
  const ScratchDirectory scratch;
  const pid_t child = fork();
  if (child == 0) {
    const auto writer = LedgerWriter::Create(scratch.path(), ExampleBegin());
    (*writer)->StepBegin(1);
    (*writer)->StepEnded(ExampleStep(1));
    (*writer)->StepBegin(2);
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  const RankLog& rank = ledger->log.attempts[0].ranks[0];
  EXPECT_FALSE(rank.exit_code.has_value());
  ASSERT_EQ(rank.steps.size(), 2u);
  EXPECT_TRUE(rank.steps[0].finished);
  EXPECT_FALSE(rank.steps[1].finished);
}

TEST(Ledger, RecordsReachTheDiskWithoutACommit) {
  const ScratchDirectory scratch;
  auto writer =
      LedgerWriter::Create(scratch.path(), ExampleBegin(), nullptr, std::chrono::milliseconds(10));
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int64_t step = 1; step <= 3; ++step) {
    (*writer)->StepBegin(step);
    const int64_t written = kernels::MonotonicNs();
    for (int i = 0; i < 1000 && (*writer)->synced_ns() < written; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_GE((*writer)->synced_ns(), written) << "within 10 s";
    (*writer)->StepEnded(ExampleStep(step));
  }
}

TEST(BackgroundSync, SyncsOnlyWhatIsNewAndNotWhenItEnds) {
  std::atomic<int> syncs{0};
  {
    BackgroundSync sync([&] { ++syncs; }, std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(syncs, 0);
    sync.Changed();
    for (int i = 0; i < 1000 && syncs == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(syncs, 1);
  }
  BackgroundSync never([&] { ++syncs; }, std::chrono::hours(1));
  never.Changed();
  EXPECT_EQ(syncs, 1);
}

// The sync ends only when the writer has gone on: had it to wait, this test would not end.
TEST(BackgroundSync, AWriterNeverWaitsForTheDisk) {
  std::atomic<bool> syncing{false}, written{false};
  BackgroundSync sync(
      [&] {
        syncing = true;
        while (!written) std::this_thread::yield();
      },
      std::chrono::milliseconds(1));
  sync.Changed();
  while (!syncing) std::this_thread::yield();
  for (int i = 0; i < 1000; ++i) sync.Changed();
  written = true;
}

TEST(Ledger, StepPartsAlwaysTileTheStep) {
  const auto sum = [](const auto& parts) {
    return std::accumulate(parts.begin(), parts.end(), int64_t{0});
  };
  std::array<int64_t, parallel::kNumTimeCategories> parts{};
  parts[parallel::kCompute] = 600;
  parts[parallel::kData] = 300;
  EXPECT_EQ(TileStep(parts, 900), parts);
  const auto longer = TileStep(parts, 1000);
  EXPECT_EQ(longer[parallel::kOther], 100);
  EXPECT_EQ(longer[parallel::kCompute], 600);
  const auto shorter = TileStep(parts, 450);
  EXPECT_EQ(shorter[parallel::kCompute], 300);
  EXPECT_EQ(shorter[parallel::kData], 150);
  parts.fill(INT64_MAX);
  parts[3] = -5;
  for (const int64_t interval : {0, 1, 11, 1'000'003}) {
    const auto tiled = TileStep(parts, interval);
    EXPECT_EQ(sum(tiled), interval);
    EXPECT_GE(*std::min_element(tiled.begin(), tiled.end()), 0);
  }
}

TEST(Ledger, HeartbeatsAreRareHoweverOftenTheyAreCalled) {
  const ScratchDirectory scratch;
  const auto writer = MustCreate(scratch.path(), ExampleBegin());
  const auto before = std::filesystem::file_size(PathOf(scratch.path()));
  for (int i = 0; i < 1000; ++i) writer->Heartbeat();
  const auto after = std::filesystem::file_size(PathOf(scratch.path()));
  EXPECT_LE(after - before, 2 * kRecordHeaderBytes);
  usleep(300'000);
  writer->Heartbeat();
  EXPECT_EQ(std::filesystem::file_size(PathOf(scratch.path())), after + kRecordHeaderBytes);
}

TEST(Ledger, AStepCostsLittleTimeAndSpace) {
  SKIP_UNDER_SANITIZERS("bounds a time to 100 us");
  const ScratchDirectory scratch;
  const auto writer = MustCreate(scratch.path(), ExampleBegin());
  const auto bytes_before = std::filesystem::file_size(PathOf(scratch.path()));
  constexpr int kSteps = 5000;
  const int64_t begin = kernels::MonotonicNs();
  for (int64_t step = 0; step < kSteps; ++step) {
    writer->StepBegin(step);
    writer->Heartbeat();
    writer->StepEnded(ExampleStep(step));
  }
  const double microseconds = double(kernels::MonotonicNs() - begin) / 1e3 / kSteps;
  const auto bytes = std::filesystem::file_size(PathOf(scratch.path())) - bytes_before;
  RecordProperty("microseconds_a_step", std::to_string(microseconds));
  std::printf("ledger: %.2f us and %d bytes a step\n", microseconds, int(bytes / kSteps));
  EXPECT_LT(microseconds, 100);  // about 3 on an idle machine; 0.5 % of a 20 ms step
  EXPECT_LE(bytes / kSteps, 1024u);
}

// Writes steps [first, last], each of some time.
void WriteSteps(LedgerWriter& writer, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    writer.StepBegin(step);
    writer.StepEnded(ExampleStep(step));
  }
}

TEST(Ledger, AFullDiskTearsNothingAndWhatItDidNotTakeComesLate) {
  const ScratchDirectory scratch;
  const auto writer = MustCreate(scratch.path(), ExampleBegin());
  const std::string path = PathOf(scratch.path());
  WriteSteps(*writer, 1, 10);
  {
    const FileSizeLimit full(std::filesystem::file_size(path) + 100);
    testing::internal::CaptureStderr();
    WriteSteps(*writer, 11, 20);
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_NE(log.find(path + ": File too large; training goes on"), std::string::npos) << log;
    EXPECT_TRUE(absl::IsResourceExhausted(writer->status())) << writer->status();
    const auto meanwhile = ReadLedger(scratch.path());
    ASSERT_TRUE(meanwhile.ok()) << meanwhile.status();
    EXPECT_TRUE(meanwhile->notes.empty()) << meanwhile->notes[0];  // no torn record
  }
  writer->Enter(State::kTeardown);
  writer->End(0);
  EXPECT_EQ(writer->num_lost(), 0);
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_TRUE(ledger->notes.empty()) << ledger->notes[0];
  EXPECT_EQ(ledger->log.attempts[0].ranks[0].steps.size(), 20u);
  EXPECT_EQ(ledger->log.attempts[0].ranks[0].exit_code, 0);
}

// The reader books the time of a gap as unknown, not to the state before it, and says so.
TEST(Ledger, AGapIsCountedInItsPlaceAndItsTimeIsUnknown) {
  const ScratchDirectory scratch;
  const auto writer = MustCreate(scratch.path(), ExampleBegin());
  WriteSteps(*writer, 1, 10);
  writer->Enter(State::kEval);
  constexpr int64_t kLastFull = 20'000;  // more than waits in memory
  {
    const FileSizeLimit full(std::filesystem::file_size(PathOf(scratch.path())));
    WriteSteps(*writer, 11, kLastFull);
    EXPECT_GT(writer->num_lost(), 0);
    usleep(20'000);
  }
  WriteSteps(*writer, kLastFull + 1, kLastFull + 5);
  writer->End(0);
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  ASSERT_EQ(ledger->notes.size(), 1u);
  const std::string wanted = "did not take " + std::to_string(writer->num_lost()) + " records";
  EXPECT_NE(ledger->notes[0].find(wanted), std::string::npos) << ledger->notes[0];
  const RankLog& rank = ledger->log.attempts[0].ranks[0];
  const int64_t missing = kLastFull + 5 - static_cast<int64_t>(rank.steps.size());
  EXPECT_GE(2 * missing, writer->num_lost() - 1);
  EXPECT_LE(2 * missing, writer->num_lost() + 1);
  EXPECT_EQ(rank.steps.back().step, kLastFull + 5);
  EXPECT_TRUE(rank.steps.back().finished);
  int64_t unknown_ns = 0;
  for (size_t i = 0; i + 1 < rank.phases.size(); ++i) {
    if (rank.phases[i].state != State::kUnknown) continue;
    unknown_ns = std::max(unknown_ns, rank.phases[i + 1].begin_ns - rank.phases[i].begin_ns);
  }
  EXPECT_GE(unknown_ns, 20'000'000);
  const auto attribution = Attribute(ledger->log);
  EXPECT_TRUE(attribution.ok()) << attribution.status();  // time is conserved
}

}  // namespace
}  // namespace muster::runtime
