// The tier in the hosts' memory: what is kept comes back whatever single host is lost, from the
// newest snapshot that is whole, on any number of ranks, and never takes more than two snapshots.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "kernels/base/error.h"
#include "runtime/checkpoint/checkpointer.h"
#include "runtime/checkpoint/memory_restore.h"
#include "runtime/checkpoint/memory_store.h"
#include "runtime/checkpoint/retention.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/shared_directory.h"

namespace muster::runtime {
namespace {

namespace fs = std::filesystem;
using parallel::TestWorld;

constexpr int64_t kPart = 700;  // elements of each rank's shard

// A world whose state is one logical tensor, of which each rank stores a part and wants all.
class ToyWorld {
 public:
  ToyWorld(parallel::World& world, const std::string& directory, int hosts, int64_t elements,
           DiskHook hook = nullptr, int attempt = 0)
      : world_(world),
        stream_(*kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute")),
        values_(*kernels::Tensor::Allocate(kernels::DType::kFloat32, {elements})) {
    auto opened = MemorySite::Open({.run_directory = directory,
                                    .root = directory,
                                    .attempt = attempt,
                                    .test_hosts = hosts,
                                    .hook = std::move(hook),
                                    .chunk_bytes = 1000},
                                   world);
    MUSTER_CHECK(opened.ok()) << opened.status();
    site = *std::move(opened);
    LogicalRange part = LogicalRange::Whole({elements});
    part.first = elements * world.rank() / world.size();
    part.count = elements * (world.rank() + 1) / world.size() - part.first;
    auto made = Checkpointer::CreateWith(
        MakeMemoryStore(*site),
        {{"weight/w", part, values_.view().Slice(0, part.first, part.first + part.count)}}, world,
        stream_.view(), {.every_steps = 1});
    MUSTER_CHECK(made.ok()) << made.status();
    checkpointer = *std::move(made);
  }

  void Become(int64_t step) {
    for (int64_t i = 0; i < values_.view().num_elements(); ++i) {
      values_.view().as<float>()[i] = static_cast<float>(step * 10 + i);
    }
  }
  bool Is(int64_t step) const {
    bool is = true;
    for (int64_t i = 0; i < values_.view().num_elements(); ++i) {
      is &= values_.view().as<float>()[i] == static_cast<float>(step * 10 + i);
    }
    return is;
  }
  // Saves; whether it was committed.
  bool Save(int64_t step) {
    Become(step);
    MUSTER_CHECK_OK(checkpointer->Save({.step = step, .attempt = site->options().attempt}));
    MUSTER_CHECK_OK(checkpointer->Finish());
    return checkpointer->last().status.ok();
  }
  // The step that is restored; -1: none. Keeps only that one.
  int64_t Load() {
    Become(-1);
    const auto found = FindInMemory(*site);
    MUSTER_CHECK(found.ok()) << found.status();
    int64_t step = -1;
    for (const MemoryCheckpoint& each : *found) {
      const auto source = PutTogether(each, *site);
      if (absl::IsDataLoss(source.status())) continue;
      MUSTER_CHECK(source.ok()) << source.status();
      const WantedPiece all{"weight/w", LogicalRange::Whole(values_.view().shape),
                            kernels::DType::kFloat32, values_.view()};
      const auto restored = Restore(*source, {all}, world_, stream_.view());
      MUSTER_CHECK(restored.ok() && restored->has_value()) << restored.status();
      step = (*restored)->facts.step;
      break;
    }
    MUSTER_CHECK_OK(KeepOnlyInMemory(step, *site));
    return step >= 0 && !Is(step) ? -2 : step;
  }

 private:
  parallel::World& world_;
  kernels::Stream stream_;
  kernels::Tensor values_;

 public:
  std::unique_ptr<MemorySite> site;
  std::unique_ptr<Checkpointer> checkpointer;
};

int64_t Elements() { return kPart * TestWorld().size(); }

// On rank 0, between two moments that all ranks wait for.
void Once(const std::function<void()>& change) {
  MUSTER_CHECK_OK(TestWorld().GatherText("before").status());
  if (TestWorld().rank() == 0) change();
  MUSTER_CHECK_OK(TestWorld().GatherText("after").status());
}

std::vector<std::string> HostDirectories(const ToyWorld& run) {
  std::vector<std::string> paths;
  const std::string top = fs::path(run.site->directory()).parent_path();
  for (const std::string& name : run.site->hosts().names) paths.push_back(top + "/" + name);
  return paths;
}

void FlipLastByte(const std::string& path) {
  std::string bytes = ReadWhole(path);
  ASSERT_FALSE(bytes.empty()) << path;
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteWhole(path, bytes);
}

TEST(MemoryTier, KeepsTheNewestSnapshotInBoundedMemory) {
  for (const int hosts : {0, 2, 3, 4}) {
    if (hosts > TestWorld().size()) continue;
    SCOPED_TRACE(hosts);
    const SharedDirectory shared(TestWorld());
    ToyWorld run(TestWorld(), shared.path(), hosts, Elements());
    EXPECT_EQ(run.Load(), -1);
    const int copies = hosts > 1 ? 2 : 1;
    for (int64_t step = 1; step <= 4; ++step) {
      ASSERT_TRUE(run.Save(step)) << run.checkpointer->last().status;
      for (const std::string& host : HostDirectories(run)) {
        EXPECT_LE(std::distance(fs::directory_iterator(host), {}), 2);
      }
      Once([&] {
        int64_t bytes = 0;
        for (const std::string& host : HostDirectories(run)) {
          for (const auto& file : fs::recursive_directory_iterator(host)) {
            if (file.is_regular_file()) bytes += static_cast<int64_t>(file.file_size());
          }
        }
        EXPECT_LE(bytes, 2 * copies * (Elements() * 4 + TestWorld().size() * 2000));
      });
    }
    ToyWorld again(TestWorld(), shared.path(), hosts, Elements(), nullptr, 1);
    EXPECT_EQ(again.Load(), 4);
    EXPECT_EQ(again.Load(), 4);  // it is still there for the next restart
    EXPECT_TRUE(again.Save(5)) << again.checkpointer->last().status;
    EXPECT_EQ(again.Load(), 5);
  }
}

TEST(MemoryTier, AnyOneHostMayBeLost) {
  for (const int hosts : {2, 3, 4}) {
    if (hosts > TestWorld().size()) continue;
    for (int lost = 0; lost < hosts; ++lost) {
      SCOPED_TRACE(testing::Message() << "host " << lost << " of " << hosts);
      const SharedDirectory shared(TestWorld());
      {
        ToyWorld run(TestWorld(), shared.path(), hosts, Elements());
        for (const int64_t step : {6, 7}) ASSERT_TRUE(run.Save(step));
        Once([&] { fs::remove_all(HostDirectories(run)[static_cast<size_t>(lost)]); });
      }
      ToyWorld again(TestWorld(), shared.path(), hosts, Elements(), nullptr, 1);
      EXPECT_EQ(again.Load(), 7);
      ASSERT_TRUE(again.Save(8));
      EXPECT_EQ(again.Load(), 8);
    }
  }
}

TEST(MemoryTier, WithoutBothCopiesOfAShardThereIsNone) {
  if (TestWorld().size() < 2) GTEST_SKIP() << "one rank has one host";
  const SharedDirectory shared(TestWorld());
  ToyWorld run(TestWorld(), shared.path(), 2, Elements());
  ASSERT_TRUE(run.Save(3));
  Once([&] {
    for (const std::string& host : HostDirectories(run)) {
      fs::remove(host + "/step-3/" + ShardName(0, TestWorld().size()));
    }
  });
  EXPECT_EQ(run.Load(), -1);
  EXPECT_TRUE(ListCheckpoints(run.site->directory())->empty());  // nobody restores the rest later
}

TEST(MemoryTier, DamageIsHealedByTheOtherCopyOrPassedByToTheSnapshotBefore) {
  const int size = TestWorld().size(), last = size - 1;
  for (const int hosts : {0, 2}) {
    if (hosts > size) continue;
    const SharedDirectory shared(TestWorld());
    ToyWorld run(TestWorld(), shared.path(), hosts, Elements());
    for (const int64_t step : {1, 2}) ASSERT_TRUE(run.Save(step));
    Once([&] {
      const std::vector<std::string> all = HostDirectories(run);
      FlipLastByte(all.back() + "/step-2/" + ShardName(last, size));
    });
    testing::internal::CaptureStderr();
    const int64_t loaded = run.Load();
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_EQ(loaded, hosts == 0 ? 1 : 2);
    // One of the host's ranks has found it, and names file and tensor.
    const auto all = TestWorld().GatherText(log);
    EXPECT_TRUE(std::any_of(all->begin(), all->end(), [&](const std::string& text) {
      return text.find(ShardName(last, size) + ": tensor weight/w is damaged") != std::string::npos;
    })) << log;
  }
}

TEST(MemoryTier, AFailedSaveLeavesTheSnapshotBefore) {
  const int hosts = std::min(2, TestWorld().size());
  for (const char* failing : {"mkdir", "open", "write", "rename"}) {
    SCOPED_TRACE(failing);
    const SharedDirectory shared(TestWorld());
    bool fail = false;
    const DiskHook hook = [&](const std::string& call, const std::string&) -> absl::Status {
      const bool mine = fail && TestWorld().rank() == TestWorld().size() - 1;
      return mine && call == failing ? absl::ResourceExhaustedError("full") : absl::OkStatus();
    };
    ToyWorld run(TestWorld(), shared.path(), hosts, Elements(), hook);
    ASSERT_TRUE(run.Save(1));
    testing::internal::CaptureStderr();
    fail = true;
    const bool leads = run.site->hosts().leader(hosts - 1) == TestWorld().size() - 1;
    const bool saved = run.Save(2);
    EXPECT_EQ(saved, std::string(failing) == "mkdir" && !leads);
    fail = false;
    const std::string log = testing::internal::GetCapturedStderr();
    if (saved) continue;
    EXPECT_EQ(log.find("full") != std::string::npos, TestWorld().rank() == TestWorld().size() - 1);
    EXPECT_GE(run.Load(), 1);  // or 2, where every other host has published it
    EXPECT_TRUE(run.Save(3)) << run.checkpointer->last().status;
    EXPECT_EQ(run.Load(), 3);
  }
}

TEST(MemoryTier, AnotherNumberOfRanksReadsIt) {
  const auto alone = parallel::World::Alone();
  const SharedDirectory shared(TestWorld());
  {
    ToyWorld run(TestWorld(), shared.path(), 0, Elements());
    ASSERT_TRUE(run.Save(5));
  }
  Once([&] {
    ToyWorld one(*alone, shared.path(), 0, Elements(), nullptr, 1);
    EXPECT_EQ(one.Load(), 5);
    EXPECT_TRUE(one.Save(6));
  });
  ToyWorld many(TestWorld(), shared.path(), 0, Elements(), nullptr, 2);
  EXPECT_EQ(many.Load(), 6);
}

// Snapshots that came of a checkpoint which led to bad numbers are no better than that.
TEST(MemoryTier, NothingFromBeforeACheckpointWasSetAsideIsUsed) {
  const SharedDirectory shared(TestWorld());
  {
    ToyWorld bad(TestWorld(), shared.path(), 0, Elements(), nullptr, 3);
    ASSERT_TRUE(bad.Save(8));
  }
  Once([&] { fs::create_directories(shared.path() + "/checkpoints/step-6.set_aside.attempt-4"); });
  ToyWorld next(TestWorld(), shared.path(), 0, Elements(), nullptr, 4);
  EXPECT_EQ(next.Load(), -1);
  ASSERT_TRUE(next.Save(5));
  EXPECT_EQ(next.Load(), 5);
}

TEST(MemoryTier, AnAttemptThatWasReplacedKeepsNothing) {
  const SharedDirectory shared(TestWorld());
  ToyWorld run(TestWorld(), shared.path(), 0, Elements());
  ASSERT_TRUE(run.Save(1));
  auto fenced =
      MemorySite::Open({.run_directory = shared.path(),
                        .root = shared.path(),
                        .fence = [] { return absl::AbortedError("replaced by attempt 1"); }},
                       TestWorld());
  ASSERT_TRUE(fenced.ok()) << fenced.status();
  const auto store = MakeMemoryStore(**fenced);
  SaveReport report{.facts = {.step = 2}};
  const absl::Status saved = store->Save({}, nullptr, &report);
  EXPECT_TRUE(TestWorld().rank() == 0 ? absl::IsAborted(saved) : absl::IsCancelled(saved)) << saved;
  EXPECT_EQ(run.Load(), 1);
}

TEST(MemoryTier, RefusesAPlaceThatOthersMayEnterAndMoreThanThereIsRoomFor) {
  const SharedDirectory shared(TestWorld());
  ToyWorld run(TestWorld(), shared.path(), 0, Elements());
  EXPECT_TRUE(run.site->CheckRoom(1 << 20).ok());
  const absl::Status full = run.site->CheckRoom(int64_t{1} << 50);
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_NE(full.message().find("checkpoint.memory_every_steps"), std::string::npos) << full;

  const std::string top = fs::path(run.site->directory()).parent_path();
  Once([&] { ASSERT_EQ(chmod(top.c_str(), 0755), 0); });
  const auto open =
      MemorySite::Open({.run_directory = shared.path(), .root = shared.path()}, TestWorld());
  EXPECT_TRUE(absl::IsPermissionDenied(open.status())) << open.status();
  Once([&] {
    fs::remove_all(top);
    fs::create_directory(shared.path() + "/elsewhere");
    fs::create_directory_symlink(shared.path() + "/elsewhere", top);
  });
  EXPECT_FALSE(
      MemorySite::Open({.run_directory = shared.path(), .root = shared.path()}, TestWorld()).ok());
}

TEST(MemoryTier, LeavesNothingBehindAtTheEnd) {
  const SharedDirectory shared(TestWorld());
  ToyWorld run(TestWorld(), shared.path(), std::min(2, TestWorld().size()), Elements());
  ASSERT_TRUE(run.Save(1));
  ASSERT_TRUE(run.site->Remove().ok());
  Once([&] { EXPECT_TRUE(fs::is_empty(shared.path())); });
}

}  // namespace
}  // namespace muster::runtime
