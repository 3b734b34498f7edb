// 1,000 flipped bits and a cut at every 4 KiB of a checkpoint of several shards: each is found,
// with the file, and the tensor where a tensor is hit. And whoever was replaced cannot commit.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "kernels/base/error.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/job/run_lock.h"
#include "tests/support/runtime/scratch_directory.h"
#include "tests/support/runtime/toy_run.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;

constexpr int kRanks = 3;
constexpr int64_t kCount = 30'000;  // elements of a tensor; each rank stores a third

// Commits step 7 as three ranks would; returns its directory.
std::string WriteThreeShards(const std::string& parent) {
  fs::create_directories(parent);
  const Disk disk;
  const CheckpointFacts facts{.step = 7, .samples = 70, .mesh = "dp3"};
  std::vector<float> values(kCount);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  MUSTER_CHECK_OK(disk.MakeDirectory(parent + "/" + PartialName(facts)));
  for (int rank = 0; rank < kRanks; ++rank) {
    LogicalRange range = LogicalRange::Whole({kCount});
    range.first = kCount / kRanks * rank;
    range.count = kCount / kRanks;
    std::vector<HostPiece> pieces;
    for (const char* name : {"weight/w", "moment1/w", "moment2/w"}) {
      pieces.push_back({name, kernels::DType::kFloat32, range, values.data() + range.first});
    }
    const std::string partial = parent + "/" + PartialName(facts);
    const auto part = WriteShard(disk, partial, ShardName(rank, kRanks), facts, pieces);
    MUSTER_CHECK_OK(part.status());
    MUSTER_CHECK_OK(WriteRecord(disk, partial, rank, *part));
  }
  MUSTER_CHECK_OK(CommitCheckpoint(disk, parent, PartialName(facts), kRanks, [] {
                    return absl::OkStatus();
                  }).status());
  return parent + "/step-7";
}

absl::Status VerifyAll(const std::string& directory) {
  const auto reader = CheckpointReader::Open(directory);
  return reader.ok() ? (*reader)->VerifyAll() : reader.status();
}

// The tensor whose bytes hold this offset of a shard; "" in the header.
std::string TensorAt(const StoredShard& shard, int64_t offset) {
  std::string tensor;
  for (const StoredPiece& piece : shard.pieces) {
    if (offset >= piece.offset) tensor = piece.tensor;
  }
  return tensor;
}

TEST(CheckpointDamage, AThousandFlippedBitsAreAllFound) {
  const ScratchDirectory scratch(FastParent());
  const std::string directory = WriteThreeShards(scratch.path());
  ASSERT_TRUE(VerifyAll(directory).ok());
  const Manifest manifest = *ReadManifest(directory, kManifestName);
  std::mt19937_64 dice(17);
  for (int flip = 0; flip < 1000; ++flip) {
    const StoredShard& shard = manifest.shards[dice() % kRanks];
    const std::string path = directory + "/" + shard.file, good = ReadWhole(path);
    std::string bad = good;
    const size_t at = dice() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << (dice() % 8)));
    WriteWhole(path, bad);
    const absl::Status found = VerifyAll(directory);
    ASSERT_TRUE(absl::IsDataLoss(found)) << shard.file << " byte " << at << ": " << found;
    ASSERT_NE(found.message().find(shard.file), std::string::npos) << found;
    ASSERT_NE(found.message().find(TensorAt(shard, static_cast<int64_t>(at))), std::string::npos)
        << found;
    WriteWhole(path, good);
  }
  EXPECT_TRUE(VerifyAll(directory).ok());
}

TEST(CheckpointDamage, ACutAtEvery4KiBIsFound) {
  const ScratchDirectory scratch(FastParent());
  const std::string directory = WriteThreeShards(scratch.path());
  const Manifest manifest = *ReadManifest(directory, kManifestName);
  int64_t cuts = 0;
  for (const StoredShard& shard : manifest.shards) {
    const std::string path = directory + "/" + shard.file, good = ReadWhole(path);
    for (size_t size = 0; size < good.size(); size += 4096, ++cuts) {
      fs::resize_file(path, size);
      const absl::Status found = VerifyAll(directory);
      ASSERT_TRUE(absl::IsDataLoss(found)) << shard.file << " cut to " << size << ": " << found;
      ASSERT_NE(found.message().find(shard.file), std::string::npos) << found;
      ASSERT_NE(found.message().find("tensor "), std::string::npos) << found;
      WriteWhole(path, good);
    }
  }
  EXPECT_GT(cuts, 80);
  EXPECT_TRUE(VerifyAll(directory).ok());
}

// Between the check of its hashes and its use: the disk loses a part of the file.
TEST(CheckpointDamage, AShardThatIsCutWhileItIsReadIsAnErrorNotASignal) {
  const ScratchDirectory scratch(FastParent());
  const std::string directory = WriteThreeShards(scratch.path());
  const LogicalRange all = LogicalRange::Whole({kCount});
  std::vector<float> values(kCount);
  auto reader = *CheckpointReader::Open(directory);
  ASSERT_TRUE(reader->Verify("moment1/w", kernels::DType::kFloat32, all).ok());
  ASSERT_TRUE(reader->Read("moment1/w", all, values.data()).ok());
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<float>(i));
  reader = *CheckpointReader::Open(directory);
  ASSERT_TRUE(reader->Verify("moment2/w", kernels::DType::kFloat32, all).ok());
  const std::string shard = directory + "/" + ShardName(1, kRanks);
  fs::resize_file(shard, 4096);
  const absl::Status cut = reader->Read("moment2/w", all, values.data());
  EXPECT_TRUE(absl::IsDataLoss(cut)) << cut;
  EXPECT_NE(cut.message().find(shard + ": wanted"), std::string::npos) << cut;
  EXPECT_TRUE(absl::IsDataLoss(reader->VerifyAll()));
}

// A world of one whose ranks' `meeting`-th exchange something happens in front of.
class WorldWithEvent final : public parallel::World {
 public:
  WorldWithEvent(int meeting, std::function<void()> event)
      : alone_(parallel::World::Alone()), left_(meeting), event_(std::move(event)) {}
  absl::StatusOr<std::unique_ptr<parallel::ProcessGroup>> NewGroup(
      std::string name, std::vector<int> ranks, parallel::TimeCategory category,
      kernels::Device device) override {
    return alone_->NewGroup(std::move(name), std::move(ranks), category, device);
  }
  absl::StatusOr<std::vector<std::string>> GatherText(const std::string& text) override {
    if (--left_ == 0) event_();
    return alone_->GatherText(text);
  }
  [[noreturn]] void Abort(int exit_code) override { _exit(exit_code); }
  int meetings_left() const { return left_; }

 private:
  const std::unique_ptr<parallel::World> alone_;
  int left_;
  const std::function<void()> event_;
};

TEST(CheckpointDamage, ARestoreThatLosesACheckpointHalfwayGoesBackToTheOneBefore) {
  int fell_back = 0;
  for (int meeting = 1;; ++meeting) {
    SCOPED_TRACE("cut in front of meeting " + std::to_string(meeting));
    const ScratchDirectory scratch(FastParent());
    ToyRun run(scratch.path(), {.asynchronous = false});
    run.Save(1);
    run.Save(2);
    WorldWithEvent world(meeting, [&] { fs::resize_file(run.ShardPath(2), 500); });
    testing::internal::CaptureStderr();
    const auto state = run.Load(&world);
    testing::internal::GetCapturedStderr();
    ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
    ASSERT_TRUE(run.Is((*state)->facts.step));
    if (world.meetings_left() > 0) break;  // it was over before
    fell_back += (*state)->facts.step == 1 ? 1 : 0;
  }
  EXPECT_GE(fell_back, 3);  // before it is opened, before it is verified, before it is copied
}

// Large files take another path through the system than small ones: in blocks, past the page cache.
TEST(CheckpointDisk, FilesOfAnySizeAreWrittenWhole) {
  const ScratchDirectory scratch;
  std::mt19937_64 dice(3);
  const size_t mib = size_t{1} << 20;
  int number = 0;
  for (const size_t size : {size_t{0}, size_t{5}, 4 * mib - 1, 4 * mib, 4 * mib + 1, 16 * mib,
                            16 * mib + 4096, 33 * mib + 777}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; i += 61) bytes[i] = static_cast<char>(dice());
    std::vector<ByteSpan> spans;  // of sizes that align with nothing
    for (size_t at = 0; at < size;) {
      const size_t part = std::min(size - at, 1 + dice() % (3 * mib));
      spans.push_back({bytes.data() + at, part});
      at += part;
    }
    const std::string path = scratch.File(std::to_string(number++));
    ASSERT_TRUE(Disk().WriteNew(path, spans).ok());
    ASSERT_TRUE(ReadWhole(path) == bytes) << size;
  }
}

// An attempt that saves with the run's fence, as a trainer's does.
std::unique_ptr<ToyRun> FencedRun(const std::string& run, int attempt, DiskHook hook = nullptr) {
  return std::make_unique<ToyRun>(
      run, CheckpointOptions{.asynchronous = false,
                             .fence = [run, attempt] { return CheckEpoch(run, attempt); },
                             .hook = std::move(hook)});
}

CheckpointFacts FactsOf(int64_t step, int attempt) {
  CheckpointFacts facts = ToyRun::FactsOf(step);
  facts.attempt = attempt;
  return facts;
}

int BeginAttempt(const std::string& run) { return *(*RunLock::Take(run))->BeginAttempt(); }

TEST(CheckpointFence, AnOrphanOfAnEarlierAttemptCannotCommit) {
  const ScratchDirectory scratch(FastParent());
  ASSERT_EQ(BeginAttempt(scratch.path()), 0);
  const auto orphan = FencedRun(scratch.path(), 0);
  orphan->Become(1);
  ASSERT_TRUE(orphan->checkpointer->Save(FactsOf(1, 0)).ok());
  ASSERT_EQ(BeginAttempt(scratch.path()), 1);
  const auto newer = FencedRun(scratch.path(), 1);
  newer->Become(2);
  ASSERT_TRUE(newer->checkpointer->Save(FactsOf(2, 1)).ok());
  orphan->Become(5);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(absl::IsAborted(orphan->checkpointer->Save(FactsOf(5, 0))));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("attempt 1"), std::string::npos);
  EXPECT_EQ(*ListCheckpoints(newer->checkpoints()), (std::vector<int64_t>{2, 1}));
}

// Whatever call of its save an orphan has stopped at, nothing of it becomes visible once the next
// attempt has taken over and cleared up, and the new attempt's own save of the same step is good.
TEST(CheckpointFence, AnOrphanStoppedAnywhereInASaveCannotCommitAfterwards) {
  int64_t num_calls = 0;
  for (int64_t stop_at = 0; stop_at == 0 || stop_at < num_calls; ++stop_at) {
    SCOPED_TRACE("stopped before call " + std::to_string(stop_at));
    const ScratchDirectory scratch(FastParent());
    BeginAttempt(scratch.path());
    int64_t calls = 0;
    bool visible_before = false;
    std::unique_ptr<ToyRun> newer;
    const DiskHook hook = [&](const std::string&, const std::string&) {
      if (calls++ == stop_at) {
        const std::string directory = scratch.path() + "/checkpoints";
        visible_before = !ListCheckpoints(directory)->empty();
        const int attempt = BeginAttempt(scratch.path());
        MUSTER_CHECK_OK(RemoveLeftovers(Disk(), directory, attempt));
        newer = FencedRun(scratch.path(), attempt);
        newer->Become(3);
        MUSTER_CHECK_OK(newer->checkpointer->Save(FactsOf(3, attempt)));
      }
      return absl::OkStatus();
    };
    const auto orphan = FencedRun(scratch.path(), 0, hook);
    orphan->Become(3);
    testing::internal::CaptureStderr();
    orphan->checkpointer->Save(FactsOf(3, 0)).IgnoreError();
    testing::internal::GetCapturedStderr();
    num_calls = std::max(num_calls, calls);
    if (newer == nullptr) break;  // past the last call
    const auto state = newer->Load();
    ASSERT_TRUE(state.ok() && state->has_value()) << state.status();
    EXPECT_EQ((*state)->facts.attempt, 1) << "visible before: " << visible_before;
    EXPECT_TRUE(newer->Is(3));
  }
  EXPECT_GT(num_calls, 10);
}

}  // namespace
}  // namespace muster::runtime
