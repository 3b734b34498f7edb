// A run that was stopped and restored is the run that was never stopped: same losses, gradient
// norms and weights, to the bit on the same layout and within rounding on another.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <filesystem>

#include "kernels/device/span.h"
#include "runtime/train/checkpoint_pieces.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

constexpr int64_t kSaved = 3, kSteps = 6;

ResolvedJob JobOf(const std::vector<std::string>& layout, int world_size) {
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
  std::vector<std::string> all = {"train.global_batch_sequences=24",
                                  "train.sequence_length=16",
                                  "train.steps=6",
                                  "communication.bucket_megabytes=0.02",
                                  "model.layers=2",
                                  "model.hidden=32",
                                  "model.moe.expert_ffn_hidden=24",
                                  "model.moe.bias_update_rate=0.01",
                                  "model.moe.score=SIGMOID",
                                  "goodput.peak=0.1",
                                  "log.progress=false"};
  all.insert(all.end(), layout.begin(), layout.end());
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, all, world_size, &job, &problems)) << Describe(problems, path);
  return job;
}

struct Record {
  std::vector<double> losses, norms;  // of the steps after kSaved
  std::vector<std::vector<double>> weights;
};

// Trains steps (first, kSteps]; from 1 it saves step kSaved on the way.
class Attempt {
 public:
  Attempt(const std::vector<std::string>& layout, parallel::World& world, kernels::StreamMode mode)
      : world_(world),
        job_(JobOf(layout, world.size())),
        directory_(SharedTemporaryDirectory(world)) {
    auto trainer = Trainer::Create(job_, world_,
                                   {.run_directory = directory_,
                                    .process_start_ns = kernels::MonotonicNs(),
                                    .compute_mode = mode});
    MUSTER_CHECK_OK(trainer.status());
    trainer_ = *std::move(trainer);
  }
  ~Attempt() {
    trainer_.reset();
    MUSTER_CHECK_OK(world_.GatherText("").status());
    if (world_.rank() == 0) std::filesystem::remove_all(directory_);
  }

  Record TrainAndSave() {
    const TrainingState& state = trainer_->state();
    auto checkpointer = Checkpointer::Create(directory_, SavedPieces(state), world_,
                                             state.compute(), {.every_steps = kSaved});
    MUSTER_CHECK_OK(checkpointer.status());
    Record record;
    for (int64_t step = 1; step <= kSteps; ++step) {
      Step(step, &record);
      if (step < kSteps) {
        MUSTER_CHECK_OK((*checkpointer)->MaybeSave({.step = step, .samples = step * 24}).status());
      }
    }
    MUSTER_CHECK_OK((*checkpointer)->Finish());
    MUSTER_CHECK_OK((*checkpointer)->last().status);
    Read(&record);
    return record;
  }
  Record Resume(const std::string& from) {
    const TrainingState& state = trainer_->state();
    const auto restored = Restore(SourceOf(from), WantedPieces(state), world_, state.compute());
    MUSTER_CHECK_OK(restored.status());
    MUSTER_CHECK(restored->has_value() && (*restored)->facts.step == kSaved);
    MUSTER_CHECK((*restored)->facts.samples == kSaved * 24);
    Record record;
    for (int64_t step = kSaved + 1; step <= kSteps; ++step) Step(step, &record);
    Read(&record);
    return record;
  }
  const std::string& directory() const { return directory_; }

 private:
  void Step(int64_t step, Record* record) {
    MUSTER_CHECK_OK(trainer_->Step(step));
    MUSTER_CHECK_OK(trainer_->Settle());
    if (step <= kSaved) return;
    record->losses.push_back(trainer_->last_step().loss);
    record->norms.push_back(trainer_->last_step().grad_norm);
  }
  void Read(Record* record) {
    const TrainingState& state = trainer_->state();
    for (parallel::ParameterId id = 0; id < state.parameters->size(); ++id) {
      state.hooks->Use(id, state.compute());
      MUSTER_CHECK_OK(state.compute().Synchronize());
      record->weights.push_back(kernels::Values((*state.parameters)[id].weight));
    }
  }
  parallel::World& world_;
  const ResolvedJob job_;
  const std::string directory_;
  std::unique_ptr<Trainer> trainer_;
};

std::vector<std::vector<std::string>> Layouts(int ranks) {
  std::vector<std::vector<std::string>> layouts;
  for (const int ep : {1, 2}) {
    if (ranks % ep != 0) continue;
    for (const int zero : {0, 1, 3}) {
      layouts.push_back({"mesh.ep=" + std::to_string(ep), "zero.level=" + std::to_string(zero)});
    }
  }
  return layouts;
}

TEST(Resume, OnTheSameLayoutIsBitwiseTheUndisturbedRun) {
  for (const char* dtype : {"fp32", "bf16"}) {
    for (std::vector<std::string> layout : Layouts(TestWorld().size())) {
      layout.push_back(std::string("precision.compute=") + dtype);
      SCOPED_TRACE(layout[0] + " " + layout[1] + " " + dtype);
      Attempt first(layout, TestWorld(), kernels::StreamMode::kInline);
      const Record undisturbed = first.TrainAndSave();
      Attempt second(layout, TestWorld(), kernels::StreamMode::kInline);
      const Record resumed = second.Resume(first.directory());
      ASSERT_EQ(resumed.losses.size(), static_cast<size_t>(kSteps - kSaved));
      EXPECT_EQ(resumed.losses, undisturbed.losses);
      EXPECT_EQ(resumed.norms, undisturbed.norms);
      EXPECT_EQ(resumed.weights, undisturbed.weights);
    }
  }
}

// On a queue the snapshot, the gather and the writer really run beside each other.
TEST(Resume, AsynchronousStreamsChangeNothing) {
  const std::vector<std::string> layout = Layouts(TestWorld().size()).back();
  Attempt first(layout, TestWorld(), kernels::StreamMode::kQueue);
  const Record undisturbed = first.TrainAndSave();
  Attempt second(layout, TestWorld(), kernels::StreamMode::kQueue);
  EXPECT_EQ(second.Resume(first.directory()).weights, undisturbed.weights);
}

TEST(Resume, OnAnotherLayoutKeepsTheLoss) {
  const auto layouts = Layouts(TestWorld().size());
  Attempt first(layouts.back(), TestWorld(), kernels::StreamMode::kInline);
  const Record undisturbed = first.TrainAndSave();
  const auto expect_near = [&](const Record& resumed) {
    for (size_t i = 0; i < undisturbed.losses.size(); ++i) {
      EXPECT_NEAR(resumed.losses[i], undisturbed.losses[i], 1e-5 * undisturbed.losses[i]);
      EXPECT_NEAR(resumed.norms[i], undisturbed.norms[i], 1e-3 * undisturbed.norms[i]);
    }
  };
  Attempt second(layouts.front(), TestWorld(), kernels::StreamMode::kInline);
  expect_near(second.Resume(first.directory()));
  const auto alone = parallel::World::Alone();
  Attempt third(Layouts(1).front(), *alone, kernels::StreamMode::kInline);
  expect_near(third.Resume(first.directory()));
}

// Tied embeddings are on two ranks of the first pipeline, on one of the second.
TEST(Resume, OfAPipelineIsBitwiseAndServesOtherStages) {
  if (TestWorld().size() % 2 != 0) GTEST_SKIP() << "two stages want 2 or 4 ranks";
  const std::vector<std::string> model = {"model.layers=4", "model.tied_embeddings=true",
                                          "schedule.microbatches=4"};
  const auto layout = [&](std::vector<std::string> more) {
    more.insert(more.end(), model.begin(), model.end());
    return more;
  };
  Attempt first(layout({"mesh.pp=2"}), TestWorld(), kernels::StreamMode::kQueue);
  const Record undisturbed = first.TrainAndSave();
  {
    Attempt second(layout({"mesh.pp=2"}), TestWorld(), kernels::StreamMode::kQueue);
    const Record resumed = second.Resume(first.directory());
    EXPECT_EQ(resumed.losses, undisturbed.losses);
    EXPECT_EQ(resumed.norms, undisturbed.norms);
    EXPECT_EQ(resumed.weights, undisturbed.weights);
  }
  const auto expect_near = [&](const Record& resumed) {
    ASSERT_EQ(resumed.losses.size(), undisturbed.losses.size());
    for (size_t i = 0; i < undisturbed.losses.size(); ++i) {
      EXPECT_NEAR(resumed.losses[i], undisturbed.losses[i], 1e-5 * undisturbed.losses[i]);
      EXPECT_NEAR(resumed.norms[i], undisturbed.norms[i], 1e-3 * undisturbed.norms[i]);
    }
  };
  Attempt folded(layout({"mesh.pp=2", "schedule.kind=zb_v"}), TestWorld(),
                 kernels::StreamMode::kInline);
  expect_near(folded.Resume(first.directory()));
  const auto alone = parallel::World::Alone();
  Attempt third(layout({}), *alone, kernels::StreamMode::kInline);
  expect_near(third.Resume(first.directory()));
}

// What the goodput ledger relies on: a step number is a place in the data, whatever is restarted
// (docs/adr/0012-rework-by-step-number.md).
TEST(Resume, WithAnotherBatchIsRefused) {
  const std::vector<std::string> layout = Layouts(TestWorld().size()).front();
  Attempt first(layout, TestWorld(), kernels::StreamMode::kInline);
  (void)first.TrainAndSave();
  std::vector<std::string> other = layout;
  other.push_back("train.global_batch_sequences=48");
  const ResolvedJob job = JobOf(other, TestWorld().size());
  const std::string directory = SharedTemporaryDirectory(TestWorld());
  const absl::Status refused = Trainer::Create(job, TestWorld(),
                                               {.run_directory = directory,
                                                .start_from = first.directory(),
                                                .process_start_ns = kernels::MonotonicNs()})
                                   .status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("train.global_batch_sequences 48; use 24"),
            absl::string_view::npos)
      << refused;
  MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace muster::runtime
