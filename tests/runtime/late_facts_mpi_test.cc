// The host reads a step's facts after it has enqueued most of the next step. Nothing that a run
// leaves behind may tell: compute on a queue (facts read late) against compute inline (at once).
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "runtime/checkpoint/format.h"
#include "runtime/goodput/ledger_reader.h"
#include "runtime/train/trainer.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using Json = nlohmann::json;
using kernels::StreamMode;
using parallel::TestWorld;

constexpr int64_t kSteps = 5;
constexpr char kBatch[] = "train.global_batch_sequences=24";  // 1 to 4 ranks, 2 microbatches

ResolvedJob JobOf(const std::string& config, std::vector<std::string> overrides, int world_size) {
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/" + config;
  overrides.insert(
      overrides.begin(),
      {"goodput.peak=0.1", "log.progress=false", "train.steps=" + std::to_string(kSteps),
       "train.sequence_length=32", "evaluate.sequences=4", "data.synthetic.tokens=8192"});
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, world_size, &job, &problems)) << Describe(problems, path);
  return job;
}

// A run in a directory of its own, which lives until all ranks are done with it.
class JobRun {
 public:
  JobRun(const ResolvedJob& job, StreamMode mode, const std::atomic<bool>* stop = nullptr)
      : directory_(SharedTemporaryDirectory(TestWorld())) {
    auto trainer = Trainer::Create(job, TestWorld(),
                                   {.run_directory = directory_,
                                    .process_start_ns = kernels::MonotonicNs(),
                                    .stop = stop,
                                    .compute_mode = mode});
    MUSTER_CHECK_OK(trainer.status());
    trainer_ = *std::move(trainer);
  }
  ~JobRun() {
    trainer_.reset();
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory_);
  }
  Trainer& trainer() { return *trainer_; }
  const std::string& directory() const { return directory_; }

  // On rank 0.
  std::vector<Json> Lines(const std::string& file) const {
    std::ifstream in(directory_ + "/" + file);
    std::vector<Json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  // The bytes of all checkpoints' shards, by path.
  std::map<std::string, std::string> Shards() const {
    std::map<std::string, std::string> shards;
    const std::filesystem::path top = directory_ + "/checkpoints";
    for (const auto& entry : std::filesystem::recursive_directory_iterator(top)) {
      if (entry.path().extension() != ".safetensors") continue;
      std::ifstream file(entry.path(), std::ios::binary);
      shards[std::filesystem::relative(entry.path(), top).string()] = {
          std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    }
    return shards;
  }

 private:
  const std::string directory_;
  std::unique_ptr<Trainer> trainer_;
};

// What does not depend on time.
std::vector<Json> Facts(std::vector<Json> lines) {
  for (Json& line : lines) {
    for (const char* key :
         {"tokens_per_second", "step_seconds", "mfu", "mfu_full", "hfu", "goodput", "breakdown"}) {
      line.erase(key);
    }
  }
  return lines;
}

void ExpectEqualRuns(const ResolvedJob& job) {
  JobRun at_once(job, StreamMode::kInline), late(job, StreamMode::kQueue);
  for (JobRun* run : {&at_once, &late}) {
    const absl::StatusOr<TrainEnd> end = run->trainer().Run();
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(*end, TrainEnd::kDone);
    EXPECT_EQ(run->trainer().last_step().step, kSteps);
  }
  if (TestWorld().rank() != 0) return;
  const std::vector<Json> rows = late.Lines("metrics.jsonl");
  ASSERT_EQ(rows.size(), static_cast<size_t>(kSteps));
  for (int64_t step = 1; step <= kSteps; ++step) {
    const Json& row = rows[static_cast<size_t>(step - 1)];
    EXPECT_EQ(row["step"], step);
    double parts = 0;
    for (const auto& [name, seconds] : row["breakdown"].items()) parts += seconds.get<double>();
    EXPECT_NEAR(parts, row["step_seconds"].get<double>(), 1e-9);
  }
  EXPECT_EQ(Facts(rows), Facts(at_once.Lines("metrics.jsonl")));
  EXPECT_EQ(late.Lines("evaluations.jsonl"), at_once.Lines("evaluations.jsonl"));
  // The first and the last step are always saved; one between is put off if the disk is slow.
  const std::map<std::string, std::string> now = at_once.Shards();
  std::set<std::string> steps;
  for (const auto& [path, bytes] : late.Shards()) {
    const auto same = now.find(path);
    if (same == now.end()) continue;
    EXPECT_TRUE(bytes == same->second) << path;
    steps.insert(path.substr(0, path.find('/')));
  }
  EXPECT_TRUE(steps.contains("step-2") && steps.contains("step-" + std::to_string(kSteps)));
}

TEST(LateFacts, LeaveTheSameRowsAsFactsReadAtOnce) {
  // Saves, evaluations and plain steps follow each other in several orders.
  const std::vector<std::string> breaks = {"checkpoint.every_steps=2", "evaluate.every_steps=3",
                                           kBatch, "model.layers=2"};
  const auto job = [&](const char* config, std::vector<std::string> layout) {
    layout.insert(layout.end(), breaks.begin(), breaks.end());
    return JobOf(config, layout, TestWorld().size());
  };
  ExpectEqualRuns(job("tiny-dense.textproto", {"zero.level=1"}));
  if (TestWorld().size() == 3) return;  // does not divide the experts
  ExpectEqualRuns(job("tiny-moe.textproto", {"zero.level=3", "precision.compute=bf16",
                                             "mesh.ep=" + std::to_string(TestWorld().size())}));
}

// The update after a skipped one must know that it was skipped: Adam's bias correction counts
// updates. One step meets a weight that is not a number, and leaves it as it is.
TEST(LateFacts, SkippedStepsAreKnownBeforeTheNextUpdate) {
  if (TestWorld().size() != 1) GTEST_SKIP() << "wants one rank, whose weights nobody gathers";
  const ResolvedJob job = JobOf("tiny-dense.textproto", {kBatch, "model.layers=1"}, 1);
  std::vector<std::vector<double>> weights;
  for (const StreamMode mode : {StreamMode::kInline, StreamMode::kQueue}) {
    JobRun run(job, mode);
    Trainer& trainer = run.trainer();
    const TrainingState& state = trainer.state();
    auto* weight = (*state.parameters)[0].weight.as<float>();
    float kept = 0;
    ASSERT_TRUE(trainer.Step(1).ok());
    state.compute().Enqueue([&] { kept = std::exchange(*weight, std::nanf("")); });
    ASSERT_TRUE(trainer.Step(2).ok());
    state.compute().Enqueue([&] { *weight = kept; });
    ASSERT_TRUE(trainer.Step(3).ok());
    ASSERT_TRUE(trainer.Step(4).ok());
    ASSERT_TRUE(trainer.Settle().ok());
    const std::vector<Json> rows = run.Lines("metrics.jsonl");
    ASSERT_EQ(rows.size(), 4u);
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i]["skipped"], i == 1) << i;
    for (parallel::ParameterId id = 0; id < state.parameters->size(); ++id) {
      state.hooks->Use(id, state.compute());
      ASSERT_TRUE(state.compute().Synchronize().ok());
      weights.push_back(kernels::Values((*state.parameters)[id].weight));
    }
  }
  const size_t half = weights.size() / 2;
  ASSERT_GT(half, 0u);
  for (size_t i = 0; i < half; ++i) EXPECT_EQ(weights[i], weights[half + i]) << i;
}

TEST(LateFacts, StepReturnsBeforeItsWorkHasRun) {
  const ResolvedJob job = JobOf("tiny-dense.textproto", {kBatch}, TestWorld().size());
  JobRun run(job, StreamMode::kQueue);
  Trainer& trainer = run.trainer();
  ASSERT_TRUE(trainer.Step(1).ok());
  // From here on the stream does nothing, so a step that waited for its own work would not return.
  std::promise<void> gate;
  trainer.state().compute().Enqueue([open = gate.get_future().share()] { open.wait(); });
  ASSERT_TRUE(trainer.Step(2).ok());
  EXPECT_EQ(trainer.last_step().step, 1);
  gate.set_value();
  ASSERT_TRUE(trainer.Settle().ok());
  EXPECT_EQ(trainer.last_step().step, 2);
}

// The same on a GPU's stream, once every kernel is loaded. Were the step to wait for its own work,
// the gate would open by itself, late, so that the test ends.
TEST(CudaLateFacts, StepReturnsBeforeItsWorkHasRun) {
  if (!parallel::HasGpus()) GTEST_SKIP() << "wants a GPU for each rank";
  const ResolvedJob job =
      JobOf("tiny-dense.textproto", {kBatch, "device=CUDA"}, TestWorld().size());
  JobRun run(job, StreamMode::kQueue);
  Trainer& trainer = run.trainer();
  for (const int64_t step : {1, 2, 3}) ASSERT_TRUE(trainer.Step(step).ok());
  std::promise<void> gate;
  const std::shared_future<void> open = gate.get_future().share();
  std::atomic<bool> waited_in_vain{false};
  trainer.state().compute().Enqueue([&, open] {
    waited_in_vain = open.wait_for(std::chrono::seconds(20)) != std::future_status::ready;
  });
  const absl::Status stepped = trainer.Step(4);
  const bool returned_at_once = !waited_in_vain;
  const int64_t known = trainer.last_step().step;
  gate.set_value();
  ASSERT_TRUE(stepped.ok()) << stepped;
  EXPECT_TRUE(returned_at_once) << "step 4 waited for its own work";
  EXPECT_EQ(known, 3);
  ASSERT_TRUE(trainer.Settle().ok());
  EXPECT_EQ(trainer.last_step().step, 4);
}

TEST(LateFacts, AStopTakesAtMostOneStepMoreAndLosesNone) {
  const ResolvedJob job = JobOf("tiny-dense.textproto", {kBatch}, TestWorld().size());
  const std::atomic<bool> stop{true};
  JobRun run(job, StreamMode::kQueue, &stop);
  const absl::StatusOr<TrainEnd> end = run.trainer().Run();
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(*end, TrainEnd::kStopped);
  EXPECT_EQ(run.trainer().result().steps, 2);  // asked in step 1, heard in step 2
  if (TestWorld().rank() != 0) return;
  EXPECT_EQ(run.Lines("metrics.jsonl").size(), 2u);
  EXPECT_TRUE(std::filesystem::exists(run.directory() + "/checkpoints/" + CheckpointName(2)));
}

// A step's interval in the ledger goes from facts to facts: no time falls between two steps.
TEST(LateFacts, LedgerHasEveryStepAndNoTimeBetweenThem) {
  const ResolvedJob job = JobOf("tiny-dense.textproto", {kBatch}, TestWorld().size());
  JobRun run(job, StreamMode::kQueue);
  ASSERT_TRUE(run.trainer().Run().ok());
  if (TestWorld().rank() != 0) return;
  const absl::StatusOr<RunLedger> ledger = ReadLedger(run.directory());
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  EXPECT_TRUE(ledger->notes.empty()) << ledger->notes.front();
  ASSERT_EQ(ledger->log.attempts.size(), 1u);
  EXPECT_TRUE(CheckRunLog(ledger->log).ok());
  const RankLog& rank = ledger->log.attempts[0].ranks[0];
  ASSERT_EQ(rank.steps.size(), static_cast<size_t>(kSteps));
  int64_t in_steps_ns = 0, between_ns = 0;
  for (size_t i = 0; i + 1 < rank.phases.size(); ++i) {
    const Phase& phase = rank.phases[i];
    const int64_t ns = rank.phases[i + 1].begin_ns - phase.begin_ns;
    if (phase.state == State::kStep) in_steps_ns += ns;
    if (phase.state == State::kUnknown && phase.begin_ns > rank.phases.front().begin_ns) {
      between_ns += ns;
    }
  }
  for (int64_t i = 0; i < kSteps; ++i) {
    EXPECT_EQ(rank.steps[static_cast<size_t>(i)].step, i + 1);
    EXPECT_TRUE(rank.steps[static_cast<size_t>(i)].finished);
  }
  // One record after the other; were it not so, the enqueueing of a step would lie there.
  EXPECT_LT(between_ns, in_steps_ns / 4);
}

}  // namespace
}  // namespace muster::runtime
