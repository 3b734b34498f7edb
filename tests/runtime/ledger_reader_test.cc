#include "runtime/goodput/ledger_reader.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "runtime/goodput/attribution.h"
#include "tests/support/runtime/ledger_bytes.h"
#include "tests/support/runtime/scratch_directory.h"

namespace muster::runtime {
namespace {

AttemptBegin BeginOf(int rank, int world_size, int64_t process_start_ns, int attempt = 0) {
  AttemptBegin begin;
  begin.attempt = attempt;
  begin.rank = rank;
  begin.world_size = world_size;
  begin.peak_flops = 1e12;
  begin.peak_label = "test peak";
  begin.host = "host-a";
  begin.process_start_monotonic_ns = process_start_ns;
  return begin;
}

StepEnd EndOf(int64_t step, int64_t ns) {
  StepEnd end;
  end.step = step;
  end.model_flops = 1e9;
  end.tokens = 64;
  end.time_ns[parallel::kCompute] = ns - 10;
  end.time_ns[parallel::kExposedEp] = 10;
  return end;
}

// Start-up, steps 1 to 3 of 1,000 ns with heartbeats inside, the end; from `at` on.
LedgerBytes Example(int64_t at = 5000, int rank = 0, int world_size = 1,
                    int64_t realtime_offset_ns = 1'000'000'000) {
  LedgerBytes file(BeginOf(rank, world_size, at - 500), at, realtime_offset_ns);
  file.Enter(at + 100, State::kInitModel);
  for (int64_t step = 1; step <= 3; ++step) {
    const int64_t begin = at + 1000 * step;
    file.StepBegin(begin, step);
    file.Heartbeat(begin + 300);
    file.Heartbeat(begin + 700);
    file.StepEnded(begin + 1000, EndOf(step, 1000));
  }
  file.End(at + 4200, 0);
  return file;
}

RankLedger MustParse(std::string_view bytes) {
  absl::StatusOr<RankLedger> ledger = ParseRankLedger(bytes);
  EXPECT_TRUE(ledger.ok()) << ledger.status();
  return ledger.ok() ? *std::move(ledger) : RankLedger{};
}

Attribution AttributionOf(const RankLedger& ledger) {
  AttemptLog attempt;
  attempt.ranks = {ledger.log};
  attempt.world_size = ledger.begin.world_size;
  absl::StatusOr<Attribution> result = Attribute(RunLog{{attempt}});
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Attribution{};
}

TEST(LedgerReader, ReadsWhatTheFileSays) {
  const RankLedger ledger = MustParse(Example().bytes());
  EXPECT_TRUE(ledger.damage.empty());
  EXPECT_EQ(ledger.records, 15);
  const Attribution run = AttributionOf(ledger);
  EXPECT_EQ(run.allocated, 4700);
  EXPECT_EQ(run.total.At(State::kLaunch), 600);
  EXPECT_EQ(run.total.At(State::kInitModel), 900);
  EXPECT_EQ(run.total.At(StepFate::kProductive), 3000);
  EXPECT_EQ(run.total.At(State::kUnknown), 200);  // between the last step and the end
}

TEST(LedgerReader, TruncationAtAnyByteLosesAtMostTheLastRecord) {
  const LedgerBytes file = Example();
  const std::vector<size_t> boundaries = file.Boundaries();
  for (size_t size = 0; size < file.bytes().size(); ++size) {
    const auto ledger = ParseRankLedger(std::string_view(file.bytes()).substr(0, size));
    // Whole records in front of the cut.
    const auto whole =
        std::upper_bound(boundaries.begin(), boundaries.end(), size) - boundaries.begin() - 1;
    if (whole == 0) {
      EXPECT_EQ(ledger.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ASSERT_TRUE(ledger.ok());
    EXPECT_EQ(ledger->records, whole);
    EXPECT_EQ(ledger->damage.empty(), size == boundaries[whole]) << size;
    AttributionOf(*ledger);
  }
}

TEST(LedgerReader, EveryBitFlipIsFoundAndTheRestStillConserves) {
  const LedgerBytes file = Example();
  const size_t first = file.Boundaries()[1];
  for (size_t bit = 0; bit < 8 * file.bytes().size(); ++bit) {
    std::string bytes = file.bytes();
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    const auto ledger = ParseRankLedger(bytes);
    if (bit / 8 < first) {
      EXPECT_FALSE(ledger.ok());
      continue;
    }
    ASSERT_TRUE(ledger.ok());
    EXPECT_FALSE(ledger->damage.empty()) << "bit " << bit;
    EXPECT_GE(ledger->records, 13);  // no flip hides more than its own record
    const Attribution run = AttributionOf(*ledger);
    EXPECT_GE(run.allocated, 4500);
    // No step becomes longer, and none that was is invented.
    EXPECT_LE(run.total.At(StepFate::kProductive), 3000);
  }
}

TEST(LedgerReader, ALostStepBeginIsRestoredFromTheStepsParts) {
  const LedgerBytes file = Example();
  const std::vector<size_t> at = file.Boundaries();
  std::string bytes = file.bytes();
  bytes[at[2] + 30] ^= 1;  // record 2 begins step 1
  const RankLedger ledger = MustParse(bytes);
  ASSERT_EQ(ledger.damage.size(), 1u);
  EXPECT_NE(ledger.damage[0].find("offset " + std::to_string(at[2])), std::string::npos);
  EXPECT_EQ(AttributionOf(ledger).total.At(StepFate::kProductive), 3000);
}

TEST(LedgerReader, ALostStepEndMakesItsTimeUnknownNotSomethingElse) {
  const LedgerBytes file = Example();
  std::string bytes = file.bytes();
  bytes[file.Boundaries()[5] + 30] ^= 1;  // record 5 ends step 1
  const Attribution run = AttributionOf(MustParse(bytes));
  EXPECT_EQ(run.total.At(StepFate::kProductive), 2000);
  EXPECT_EQ(run.total.lost_partial, 700);  // up to the last heartbeat before the damage
  EXPECT_EQ(run.total.At(State::kUnknown), 200 + 300);
}

TEST(LedgerReader, UnknownRecordTypesAreSkipped) {
  LedgerBytes file(BeginOf(0, 1, 0), 100);
  file.Enter(200, State::kEval);
  file.OfUnknownType(250, 77);
  file.End(300, 0);
  const RankLedger ledger = MustParse(file.bytes());
  EXPECT_TRUE(ledger.damage.empty());
  EXPECT_EQ(ledger.unknown_records, 1);
  EXPECT_EQ(AttributionOf(ledger).total.At(State::kEval), 100);
}

TEST(LedgerReader, UnknownRecordsAreNoted) {
  LedgerBytes file(BeginOf(0, 1, 0), 100);
  file.OfUnknownType(250, 77);
  const ScratchDirectory scratch;
  const std::string directory = AttemptDirectory(scratch.path(), 0);
  std::filesystem::create_directories(directory);
  WriteWhole(directory + "/" + LedgerFileName(0), file.bytes());
  const auto ledger = ReadLedger(scratch.path());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  ASSERT_EQ(ledger->notes.size(), 1u);
  EXPECT_NE(ledger->notes[0].find(": 1 records of a newer version are left out"), std::string::npos)
      << ledger->notes[0];
}

TEST(LedgerReader, ABatchThatNoBatchCanBeIsDamage) {
  for (const int64_t tokens : {int64_t{1} << 30, INT64_MAX}) {
    LedgerBytes file(BeginOf(0, 1, 0), 1000);
    StepEnd end = EndOf(4, 500);
    end.tokens = tokens;
    file.StepBegin(1500, 4);
    file.StepEnded(2000, end);
    EXPECT_EQ(MustParse(file.bytes()).damage.empty(), tokens < INT64_MAX);
  }
}

TEST(LedgerReader, FilesOfOlderWritersLackFieldsAndNothingElse) {
  LedgerBytes old(BeginOf(0, 1, 0), 1000), today(BeginOf(0, 1, 0), 1000);
  old.WriteAsOld();
  StepEnd end = EndOf(4, 500);
  end.hardware_flops = 1.25e9;
  for (LedgerBytes* file : {&old, &today}) {
    file->StepBegin(1500, 4);
    file->StepEnded(2000, end);
    file->End(2000, 0);
  }
  const RankLedger before = MustParse(old.bytes()), now = MustParse(today.bytes());
  EXPECT_TRUE(before.damage.empty());
  EXPECT_EQ(before.log.steps.at(0).model_flops, 1e9);
  EXPECT_EQ(before.log.steps.at(0).hardware_flops, 0);
  EXPECT_EQ(now.log.steps.at(0).hardware_flops, 1.25e9);
  EXPECT_EQ(AttributionOf(now).total.step, AttributionOf(before).total.step);
}

TEST(LedgerReader, RecordsThatContradictTheirFileAreRefused) {
  LedgerBytes backwards(BeginOf(0, 1, 0), 1000);
  backwards.Enter(900, State::kEval);
  LedgerBytes endless(BeginOf(0, 1, 0), 1000);
  endless.Heartbeat(INT64_MAX - 5);
  LedgerBytes after_end(BeginOf(0, 1, 0), 1000);
  after_end.End(1100, 0);
  after_end.Heartbeat(1200);
  LedgerBytes no_begin(BeginOf(0, 1, 0), 1000);
  no_begin.StepEnded(2000, EndOf(4, 500));
  LedgerBytes untiled(BeginOf(0, 1, 0), 1000);
  untiled.StepBegin(1500, 4);
  untiled.StepEnded(2000, EndOf(4, 400));
  StepEnd huge = EndOf(4, 500);
  huge.time_ns.fill(INT64_MAX);
  LedgerBytes overflowing(BeginOf(0, 1, 0), 1000);
  overflowing.StepBegin(1500, 4);
  overflowing.StepEnded(2000, huge);
  for (const LedgerBytes& file : {backwards, endless, after_end, no_begin, untiled, overflowing}) {
    const RankLedger ledger = MustParse(file.bytes());
    ASSERT_EQ(ledger.damage.size(), 1u);
    EXPECT_NE(ledger.damage[0].find("contradicts"), std::string::npos);
    AttributionOf(ledger);
  }
}

TEST(LedgerReader, RandomBytesNeverBreakIt) {
  std::mt19937 random(7);
  const std::string example = Example().bytes();
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = example;
    for (int i = 0; i < 1 + round % 20; ++i) bytes[random() % bytes.size()] = char(random());
    if (round % 3 == 0) bytes.insert(random() % bytes.size(), std::string(random() % 300, 'x'));
    if (round % 5 == 0) bytes.erase(random() % bytes.size(), random() % 300);
    const auto ledger = ParseRankLedger(bytes);
    if (ledger.ok()) AttributionOf(*ledger);
  }
}

TEST(LedgerReader, AWallClockJumpChangesNothing) {
  const auto write = [](int64_t jump_ns) {
    LedgerBytes file(BeginOf(0, 1, 0), 1000, 1'000'000);
    file.StepBegin(2000, 1);
    file.JumpWallClock(jump_ns);
    file.StepEnded(3000, EndOf(1, 1000));
    file.End(3100, 0);
    return AttributionOf(MustParse(file.bytes()));
  };
  const Attribution calm = write(0);
  for (const int64_t jump : {int64_t{-500'000}, int64_t{3'600'000'000'000}}) {
    const Attribution jumped = write(jump);
    EXPECT_EQ(jumped.allocated, calm.allocated);
    EXPECT_EQ(jumped.total.state, calm.total.state);
    EXPECT_EQ(jumped.total.step, calm.total.step);
  }
}

class LedgerFiles : public testing::Test {
 protected:
  void Put(int attempt, const std::string& name, const std::string& bytes) {
    const std::string directory = AttemptDirectory(scratch_.path(), attempt);
    std::filesystem::create_directories(directory);
    WriteWhole(directory + "/" + name, bytes);
  }
  RunLedger MustRead() {
    absl::StatusOr<RunLedger> ledger = ReadLedger(scratch_.path());
    EXPECT_TRUE(ledger.ok()) << ledger.status();
    return ledger.ok() ? *std::move(ledger) : RunLedger{};
  }
  ScratchDirectory scratch_;
};

TEST_F(LedgerFiles, RanksOfOneHostShareItsClockAndOthersArePlacedByWallClock) {
  AttemptBegin far = BeginOf(1, 2, 999'000 - 200);
  far.host = "host-b";
  LedgerBytes other(far, 999'000, 2'000'000 - 999'000 + 5000);  // its wall clock then: 2'005'000
  other.Enter(999'100, State::kInitModel);
  other.End(1'003'200, 0);
  Put(0, "rank-0.ledger", Example(5000, 0, 2, 2'000'000 - 5000).bytes());  // at 2'000'000
  Put(0, "rank-1.ledger", other.bytes());
  const RunLedger run = MustRead();
  ASSERT_EQ(run.log.attempts.size(), 1u);
  const AttemptLog& attempt = run.log.attempts[0];
  EXPECT_EQ(attempt.ranks[0].process_start_ns, 4500);
  EXPECT_EQ(attempt.ranks[1].process_start_ns, 5000 + 5000 - 200);
  EXPECT_EQ(attempt.ranks[1].end_ns, 5000 + 5000 + 4200);
  EXPECT_TRUE(Attribute(run.log).ok());
}

TEST_F(LedgerFiles, TheGapBetweenAttemptsIsToldButNotAllocated) {
  Put(0, "rank-0.ledger", Example(5000).bytes());  // ends at 9200
  LedgerBytes second(BeginOf(0, 1, 20'000, 1), 20'100);
  second.End(21'000, 0);
  Put(1, "rank-0.ledger", second.bytes());
  const RunLedger run = MustRead();
  ASSERT_EQ(run.log.attempts.size(), 2u);
  EXPECT_EQ(run.log.attempts[1].gap_before_ns, 20'000 - 9200);
  EXPECT_EQ(Attribute(run.log)->allocated, 4700 + 1000);
}

TEST_F(LedgerFiles, WhatDoesNotBelongIsNotedAndLeftOut) {
  Put(0, "rank-0.ledger", Example(5000, 0, 4).bytes());
  Put(0, "rank-1.ledger", Example(5000, 2, 4).bytes());  // says rank 2
  Put(0, "rank-2.ledger", "nonsense");
  Put(0, "rank-x.ledger", Example(5000, 3, 4).bytes());
  Put(0, "rank--3.ledger", Example(5000, 3, 4).bytes());
  const std::string link = AttemptDirectory(scratch_.path(), 0) + "/rank-3.ledger";
  std::filesystem::create_symlink("rank-0.ledger", link);
  Put(3, "rank-0.ledger", "");
  const RunLedger run = MustRead();
  ASSERT_EQ(run.log.attempts.size(), 1u);
  EXPECT_EQ(run.log.attempts[0].ranks.size(), 1u);
  EXPECT_EQ(run.log.attempts[0].world_size, 4);
  EXPECT_EQ(run.notes.size(), 5u);  // ranks 1, 2, 3; attempt 3's rank and itself
  EXPECT_TRUE(Attribute(run.log).ok());
}

TEST_F(LedgerFiles, ARunWithoutALedgerSaysWhatWasWanted) {
  const absl::Status status = ReadLedger(scratch_.path() + "/nowhere").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("wanted attempt-<a>/rank-<r>.ledger"), absl::string_view::npos);
}

}  // namespace
}  // namespace muster::runtime
