// Checkpoints over ranks and layouts: what one mesh, world size and ZeRO level saved, every other
// reads, element by element.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "kernels/base/hash.h"
#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/retention.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/train/checkpoint_pieces.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/shared_directory.h"

namespace muster::runtime {
namespace {

using kernels::BFloat16;
using kernels::DType;
using kernels::TensorView;
using parallel::TestWorld;

const std::string kTinyMoe = MUSTER_SOURCE_DIR "/configs/jobs/tiny-moe.textproto";

std::unique_ptr<TrainingState> Build(const std::vector<std::string>& overrides,
                                     parallel::World& world) {
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(kTinyMoe, overrides, world.size(), &job, &problems))
      << Describe(problems, kTinyMoe);
  auto state = TrainingState::Build(job, world);
  MUSTER_CHECK(state.ok()) << state.status();
  return *std::move(state);
}

// The value of an element of a logical tensor: exact in fp32; weights are exact in bf16 too if
// `coarse`.
double ValueOf(const std::string& tensor, int64_t index, bool coarse) {
  const uint64_t hash = kernels::Hash64(&index, sizeof(index), kernels::Hash64(tensor));
  return static_cast<double>(hash % (coarse ? 256 : (1 << 24))) - 100;
}

void Store(const TensorView& flat, int64_t i, double value) {
  switch (flat.dtype) {
    case DType::kFloat32:
      flat.as<float>()[i] = static_cast<float>(value);
      break;
    case DType::kBFloat16:
      flat.as<BFloat16>()[i] = BFloat16(static_cast<float>(value));
      break;
    case DType::kFloat64:
      flat.as<double>()[i] = value;
      break;
    case DType::kInt64:
      flat.as<int64_t>()[i] = static_cast<int64_t>(value);
      break;
    default:
      FAIL() << flat.ToString();
  }
}

double Load(const TensorView& flat, int64_t i) {
  switch (flat.dtype) {
    case DType::kFloat32:
      return flat.as<float>()[i];
    case DType::kBFloat16:
      return static_cast<float>(flat.as<BFloat16>()[i]);
    case DType::kFloat64:
      return flat.as<double>()[i];
    default:
      return static_cast<double>(flat.as<int64_t>()[i]);
  }
}

// Every element of the state, through the list of what a restore fills.
void ForEachElement(
    const TrainingState& state,
    const std::function<void(const WantedPiece&, int64_t local, int64_t global)>& visit) {
  for (const WantedPiece& piece : WantedPieces(state)) {
    for (const ElementRun& run : RunsOf(piece.range)) {
      for (int64_t i = 0; i < run.count; ++i) visit(piece, run.local + i, run.global + i);
    }
  }
}

void FillWithValues(const TrainingState& state, bool coarse) {
  ForEachElement(state, [&](const WantedPiece& piece, int64_t local, int64_t global) {
    Store(piece.data, local, ValueOf(piece.tensor, global, coarse));
  });
}

void FillWithGarbage(const TrainingState& state) {
  ForEachElement(state, [&](const WantedPiece& piece, int64_t local, int64_t) {
    Store(piece.data, local, -7777);
  });
}

int64_t CountWrong(const TrainingState& state, bool coarse) {
  int64_t wrong = 0, all = 0;
  ForEachElement(state, [&](const WantedPiece& piece, int64_t local, int64_t global) {
    wrong += Load(piece.data, local) != ValueOf(piece.tensor, global, coarse) ? 1 : 0;
    ++all;
  });
  EXPECT_GT(all, 10'000);
  return wrong;
}

absl::Status SaveOf(const TrainingState& state, parallel::World& world, const std::string& run,
                    CheckpointOptions options = {.asynchronous = false}) {
  auto checkpointer =
      Checkpointer::Create(run, SavedPieces(state), world, state.compute(), std::move(options));
  RETURN_IF_ERROR(checkpointer.status());
  RETURN_IF_ERROR((*checkpointer)->Save({.step = 6, .skipped_steps = 1, .samples = 192}));
  RETURN_IF_ERROR((*checkpointer)->Finish());
  return (*checkpointer)->last().status;
}

// Layouts that fit `ranks` ranks.
std::vector<std::vector<std::string>> Layouts(int ranks, bool masters) {
  std::vector<std::vector<std::string>> layouts;
  const auto add = [&](const std::string& axes, const char* zero) {
    layouts.push_back({axes, std::string("zero.level=") + zero, "train.global_batch_sequences=24",
                       "communication.bucket_megabytes=0.01", "model.layers=3", "model.hidden=16",
                       "model.ffn_hidden=24", "model.vocab_size=63",
                       "model.moe.expert_ffn_hidden=12", "model.moe.bias_update_rate=0.01",
                       "model.moe.score=SIGMOID"});
    if (masters) layouts.back().push_back("precision.compute=bf16");
  };
  for (const int ep : {1, 2, 4}) {
    if (ranks % ep != 0) continue;
    for (const char* zero : {"0", "1", "3"}) {
      if (std::string(zero) == "3" && ep == 1 && ranks > 1) continue;  // enough of them
      add("mesh.ep=" + std::to_string(ep), zero);
      if (std::string(zero) == "3" && ranks == 4) layouts.back().push_back("zero.shard_ranks=2");
    }
  }
  if (ranks % 2 == 0) {  // fused weights in several pieces, an uneven vocabulary
    add("mesh.tp=2", "1");
    layouts.back().push_back("mesh.etp=2");
  }
  return layouts;
}

TEST(CheckpointOnRanks, AnyLayoutReadsAnyLayout) {
  parallel::World& world = TestWorld();
  const auto alone = parallel::World::Alone();
  for (const bool bf16 : {false, true}) {
    const std::vector<std::string> one_rank = Layouts(1, bf16).back();
    for (const std::vector<std::string>& writer : Layouts(world.size(), bf16)) {
      SCOPED_TRACE(writer[0] + " " + writer[1] + (bf16 ? " bf16" : ""));
      const SharedDirectory shared(world);
      const auto saved = Build(writer, world);
      FillWithValues(*saved, bf16);
      ASSERT_TRUE(SaveOf(*saved, world, shared.path()).ok());
      for (const std::vector<std::string>& reader : Layouts(world.size(), bf16)) {
        SCOPED_TRACE("read as " + reader[0] + " " + reader[1]);
        const auto state = Build(reader, world);
        FillWithGarbage(*state);
        const auto restored =
            Restore(SourceOf(shared.path()), WantedPieces(*state), world, state->compute());
        ASSERT_TRUE(restored.ok() && restored->has_value()) << restored.status();
        EXPECT_EQ((*restored)->facts.samples, 192);
        EXPECT_EQ(CountWrong(*state, bf16), 0);
      }
      // Another world size: one rank reads what all have written.
      const auto state = Build(one_rank, *alone);
      FillWithGarbage(*state);
      const auto restored =
          Restore(SourceOf(shared.path()), WantedPieces(*state), *alone, state->compute());
      ASSERT_TRUE(restored.ok() && restored->has_value()) << restored.status();
      EXPECT_EQ(CountWrong(*state, bf16), 0);
    }
  }
}

TEST(CheckpointOnRanks, ManyReadWhatOneWrote) {
  parallel::World& world = TestWorld();
  const auto alone = parallel::World::Alone();
  const SharedDirectory shared(world);
  if (world.rank() == 0) {
    const auto state = Build(Layouts(1, false).front(), *alone);
    FillWithValues(*state, false);
    ASSERT_TRUE(SaveOf(*state, *alone, shared.path()).ok());
  }
  ASSERT_TRUE(world.GatherText("saved").ok());
  for (const std::vector<std::string>& reader : Layouts(world.size(), false)) {
    const auto state = Build(reader, world);
    FillWithGarbage(*state);
    const auto restored =
        Restore(SourceOf(shared.path()), WantedPieces(*state), world, state->compute());
    ASSERT_TRUE(restored.ok() && restored->has_value()) << restored.status();
    EXPECT_EQ(CountWrong(*state, false), 0);
  }
}

// Fp32 masters carry more than bf16 weights: a restore rounds the one from the other.
TEST(CheckpointOnRanks, Bf16WeightsAreTheRoundedMasters) {
  parallel::World& world = TestWorld();
  const SharedDirectory shared(world);
  const auto fp32 = Build(Layouts(world.size(), false).back(), world);
  FillWithValues(*fp32, false);
  ASSERT_TRUE(SaveOf(*fp32, world, shared.path()).ok());
  const auto bf16 = Build(Layouts(world.size(), true).front(), world);
  const auto restored =
      Restore(SourceOf(shared.path()), WantedPieces(*bf16), world, bf16->compute());
  ASSERT_TRUE(restored.ok() && restored->has_value()) << restored.status();
  int64_t wrong = 0, rounded = 0;
  ForEachElement(*bf16, [&](const WantedPiece& piece, int64_t local, int64_t global) {
    double value = ValueOf(piece.tensor, global, false);
    if (piece.data.dtype == DType::kBFloat16) {
      const double exact = value;
      value = static_cast<float>(BFloat16(static_cast<float>(value)));
      rounded += value != exact ? 1 : 0;
    }
    wrong += Load(piece.data, local) != value ? 1 : 0;
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(rounded, 1000);
}

TEST(CheckpointOnRanks, EachElementIsStoredOnce) {
  parallel::World& world = TestWorld();
  for (const std::vector<std::string>& layout : Layouts(world.size(), false)) {
    const SharedDirectory shared(world);
    const auto state = Build(layout, world);
    ASSERT_TRUE(SaveOf(*state, world, shared.path()).ok());
    const auto reader = CheckpointReader::Open(shared.path() + "/checkpoints/step-6");
    ASSERT_TRUE(reader.ok()) << reader.status();  // it checks that nothing is stored twice
    EXPECT_TRUE((*reader)->VerifyAll().ok());
    EXPECT_EQ((*reader)->num_shards(), world.size());
    int64_t largest = 0;
    for (const StoredShard& shard : (*reader)->manifest().shards) {
      largest = std::max(largest, shard.bytes - shard.header_bytes);
    }
    // Replicas share the work: none writes more than a third above its part (padding, buffers).
    EXPECT_LT(static_cast<double>(largest) * world.size(),
              1.34 * static_cast<double>((*reader)->manifest().bytes()));
    ASSERT_TRUE(world.GatherText("read").ok());
  }
}

TEST(CheckpointOnRanks, OneRanksDamageIsPassedByOnAll) {
  parallel::World& world = TestWorld();
  const SharedDirectory shared(world);
  const auto state = Build(Layouts(world.size(), false).back(), world);
  auto checkpointer = *Checkpointer::Create(shared.path(), SavedPieces(*state), world,
                                            state->compute(), {.every_steps = 1});
  for (int64_t step = 1; step <= 2; ++step) {
    FillWithValues(*state, false);
    ASSERT_TRUE(checkpointer->Save({.step = step}).ok());
  }
  ASSERT_TRUE(checkpointer->Finish().ok());
  if (world.rank() == 0) {
    const std::string last =
        shared.path() + "/checkpoints/step-2/" + ShardName(world.size() - 1, world.size());
    std::string bytes = ReadWhole(last);
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    WriteWhole(last, bytes);
  }
  ASSERT_TRUE(world.GatherText("damaged").ok());
  FillWithGarbage(*state);
  const auto restored =
      Restore(SourceOf(shared.path()), WantedPieces(*state), world, state->compute());
  ASSERT_TRUE(restored.ok() && restored->has_value()) << restored.status();
  EXPECT_EQ((*restored)->facts.step, 1);
  ASSERT_EQ((*restored)->passed_by.size(), 1u);
  EXPECT_NE((*restored)->passed_by[0].find(ShardName(world.size() - 1, world.size())),
            std::string::npos);
  EXPECT_EQ(CountWrong(*state, false), 0);
}

TEST(CheckpointOnRanks, OneRanksFullDiskFailsTheSaveOnAll) {
  parallel::World& world = TestWorld();
  const SharedDirectory shared(world);
  const auto state = Build(Layouts(world.size(), false).back(), world);
  const int failing_rank = world.size() - 1;
  bool fail = false;
  const DiskHook hook = [&](const std::string& call, const std::string&) -> absl::Status {
    if (!fail || call != "write" || world.rank() != failing_rank) return absl::OkStatus();
    return absl::ResourceExhaustedError("no space");
  };
  auto checkpointer = *Checkpointer::Create(shared.path(), SavedPieces(*state), world,
                                            state->compute(), {.every_steps = 1, .hook = hook});
  FillWithValues(*state, false);
  ASSERT_TRUE(checkpointer->MaybeSave({.step = 1}).ok());
  ASSERT_TRUE(checkpointer->Finish().ok());
  fail = true;
  testing::internal::CaptureStderr();
  ASSERT_TRUE(checkpointer->MaybeSave({.step = 2}).ok());
  ASSERT_TRUE(checkpointer->Finish().ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(log.find("no space") != std::string::npos, world.rank() == failing_rank);
  EXPECT_TRUE(absl::IsResourceExhausted(checkpointer->last().status))
      << checkpointer->last().status;
  EXPECT_EQ(*ListCheckpoints(shared.path() + "/checkpoints"), std::vector<int64_t>{1});
  fail = false;
  ASSERT_TRUE(checkpointer->MaybeSave({.step = 3}).ok());
  ASSERT_TRUE(checkpointer->Finish().ok());
  EXPECT_TRUE(checkpointer->last().status.ok()) << checkpointer->last().status;
  EXPECT_EQ(*ListCheckpoints(shared.path() + "/checkpoints"), (std::vector<int64_t>{3, 1}));
}

TEST(CheckpointOnRanks, AnotherModelIsRefusedByName) {
  parallel::World& world = TestWorld();
  const SharedDirectory shared(world);
  const auto state = Build(Layouts(world.size(), false).back(), world);
  ASSERT_TRUE(SaveOf(*state, world, shared.path()).ok());
  for (const char* change : {"model.layers=4", "model.layers=2", "model.hidden=24"}) {
    std::vector<std::string> overrides = Layouts(world.size(), false).back();
    overrides.push_back(change);
    const auto other = Build(overrides, world);
    const auto restored =
        Restore(SourceOf(shared.path()), WantedPieces(*other), world, other->compute());
    EXPECT_TRUE(absl::IsFailedPrecondition(restored.status())) << change << restored.status();
    EXPECT_NE(restored.status().message().find("tensor "), std::string::npos) << restored.status();
  }
}

}  // namespace
}  // namespace muster::runtime
