// After a job's first step no step takes memory; what a trainer on GPUs does to that end, before
// step 1, changes no step.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "kernels/base/error.h"
#include "kernels/device/buffer_count.h"
#include "kernels/device/memory.h"
#include "kernels/device/span.h"
#include "kernels/ops/attention_support.h"
#include "kernels/ops/matmul_notes.h"
#include "runtime/train/trainer.h"
#include "tests/support/cuda_memory.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

struct Layout {
  const char* config;
  std::vector<std::string> overrides;
};

// Those that fit the world.
std::vector<Layout> Layouts() {
  const char* dense = "tiny-dense.textproto";
  const char* moe = "tiny-moe.textproto";
  std::vector<Layout> layouts = {{dense, {"zero.level=0"}},
                                 {dense, {"zero.level=3", "recompute.block=true"}}};
  if (TestWorld().size() == 3) return layouts;  // divides neither heads nor experts
  layouts.push_back({moe, {"zero.level=2", "precision.compute=bf16"}});
  if (TestWorld().size() == 1) return layouts;
  layouts.push_back({moe, {"mesh.ep=2", "model.moe.shared_experts=1"}});
  layouts.push_back({moe, {"mesh.tp=2", "mesh.etp=2"}});
  layouts.push_back({dense, {"mesh.tp=2", "model.vocab_size=257"}});
  layouts.push_back({dense, {"mesh.cp=2", "mesh.context_exchange=ALL_GATHER"}});
  layouts.push_back({dense, {"mesh.pp=2", "schedule.kind=zb_h1", "model.tied_embeddings=true"}});
  return layouts;
}

ResolvedJob JobOf(const Layout& layout, int world_size = TestWorld().size()) {
  std::vector<std::string> all = {"goodput.peak=0.1",
                                  "log.progress=false",
                                  "train.steps=6",
                                  "train.sequence_length=32",
                                  "train.global_batch_sequences=36",
                                  "schedule.microbatches=3",
                                  "data.synthetic.tokens=8192"};
  all.insert(all.end(), layout.overrides.begin(), layout.overrides.end());
  const std::string path =
      std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/" + std::string(layout.config);
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, all, world_size, &job, &problems)) << Describe(problems, path);
  return job;
}

TEST(StepMemory, StepsAfterTheFirstTakeNone) {
  for (const Layout& layout : Layouts()) {
    SCOPED_TRACE(layout.config + (" " + absl::StrJoin(layout.overrides, " ")));
    const ResolvedJob job = JobOf(layout);
    const std::string directory = SharedTemporaryDirectory(TestWorld());
    auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    ASSERT_TRUE((*trainer)->Step(1).ok());
    ASSERT_TRUE((*trainer)->Settle().ok());
    const int64_t before = kernels::NumBuffersTaken();
    EXPECT_GT(before, 0);
    for (const int64_t step : {2, 3, 4}) ASSERT_TRUE((*trainer)->Step(step).ok());
    ASSERT_TRUE((*trainer)->Settle().ok());
    EXPECT_EQ(kernels::NumBuffersTaken(), before);
    trainer->reset();
    ASSERT_TRUE(TestWorld().GatherText("").ok());
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
  }
}

// What a trainer on GPUs does before step 1.
TEST(StepMemory, WarmingUpChangesNoStep) {
  for (const Layout& layout : Layouts()) {
    SCOPED_TRACE(layout.config + (" " + absl::StrJoin(layout.overrides, " ")));
    const ResolvedJob job = JobOf(layout);
    std::vector<std::vector<double>> seen;
    for (const bool warm : {false, true}) {
      const std::string directory = SharedTemporaryDirectory(TestWorld());
      auto trainer =
          Trainer::Create(job, TestWorld(),
                          {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
      ASSERT_TRUE(trainer.ok()) << trainer.status();
      if (warm) {
        ASSERT_TRUE((*trainer)->WarmUp().ok());
      }
      std::vector<double>& facts = seen.emplace_back();
      for (const int64_t step : {1, 2, 3}) {
        ASSERT_TRUE((*trainer)->Step(step).ok());
        ASSERT_TRUE((*trainer)->Settle().ok());
        const StepMetrics& metrics = (*trainer)->last_step();
        for (const double fact : {metrics.loss, metrics.aux_loss, metrics.grad_norm}) {
          facts.push_back(fact);
        }
        facts.insert(facts.end(), metrics.expert_imbalance.begin(), metrics.expert_imbalance.end());
      }
      trainer->reset();
      ASSERT_TRUE(TestWorld().GatherText("").ok());
      if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
    }
    EXPECT_EQ(seen[0], seen[1]);
  }
}

// It runs a part of the blocks and microbatches only.
TEST(StepMemory, WarmingUpRunsEveryProductOfAStep) {
  for (const Layout& layout : Layouts()) {
    SCOPED_TRACE(layout.config + (" " + absl::StrJoin(layout.overrides, " ")));
    const ResolvedJob job = JobOf(layout);
    const std::string directory = SharedTemporaryDirectory(TestWorld());
    auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const kernels::StreamView compute = (*trainer)->state().compute();
    std::set<kernels::MatmulKey> warm, of_a_step;
    {
      kernels::MatmulNotes notes;
      notes.Attach(compute, /*dry=*/false);
      ASSERT_TRUE((*trainer)->WarmUp().ok());
      warm = notes.keys();
    }
    {
      kernels::MatmulNotes notes;
      notes.Attach(compute, /*dry=*/false);
      ASSERT_TRUE((*trainer)->Step(1).ok());
      ASSERT_TRUE((*trainer)->Settle().ok());
      of_a_step = notes.keys();
    }
    EXPECT_EQ(warm, of_a_step);
    trainer->reset();
    ASSERT_TRUE(TestWorld().GatherText("").ok());
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
  }
}

// On GPUs the warm-up takes what libraries want; kernels are loaded at their first use, the last of
// them in step 2, which reads the facts of step 1.
TEST(CudaStepMemory, StepsAfterTheWarmUpTakeNoneOfTheHostsAndTheDevicesMemory) {
  if (!parallel::HasGpus()) GTEST_SKIP() << "wants a GPU for each rank";
  const kernels::Device gpu = parallel::TestGpu();
  for (Layout& layout : Layouts()) {
    layout.overrides.push_back("device=CUDA");
    SCOPED_TRACE(layout.config + (" " + absl::StrJoin(layout.overrides, " ")));
    const ResolvedJob job = JobOf(layout);
    const std::string directory = SharedTemporaryDirectory(TestWorld());
    auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const bool warms = job.mesh.pp == 1;  // else the first step does
    if (warms) ASSERT_TRUE((*trainer)->WarmUp().ok());
    int64_t buffers = kernels::NumBuffersTaken();
    ASSERT_TRUE((*trainer)->Step(1).ok());
    if (!warms) buffers = kernels::NumBuffersTaken();
    ASSERT_TRUE((*trainer)->Step(2).ok());
    ASSERT_TRUE((*trainer)->Settle().ok());
    const int64_t free_bytes = kernels::FreeDeviceBytes(gpu);
    for (const int64_t step : {3, 4, 5, 6}) ASSERT_TRUE((*trainer)->Step(step).ok());
    ASSERT_TRUE((*trainer)->Settle().ok());
    EXPECT_EQ(kernels::NumBuffersTaken(), buffers);
    EXPECT_EQ(kernels::FreeDeviceBytes(gpu), free_bytes) << "of the device, free bytes";
    trainer->reset();
    ASSERT_TRUE(TestWorld().GatherText("").ok());
    if (TestWorld().rank() == 0) std::filesystem::remove_all(directory);
  }
}

// Leaves `left` bytes of a GPU's memory.
std::vector<kernels::DeviceBuffer> TakeAllBut(int64_t left, kernels::Device gpu) {
  std::vector<kernels::DeviceBuffer> taken;
  for (;;) {
    const int64_t bytes = kernels::FreeDeviceBytes(gpu) - left;
    if (bytes < (int64_t{4} << 20)) return taken;
    auto buffer = kernels::DeviceBuffer::Allocate(gpu, bytes);
    MUSTER_CHECK_OK(buffer.status());
    taken.push_back(*std::move(buffer));
  }
}

// Of a GPU that is full but for half of what attention's backward wants beside the plan.
TEST(CudaStepMemory, AWarmUpThatFindsNoRoomNamesTheBiggestBlocks) {
  if (TestWorld().size() != 1 || !parallel::HasGpus()) GTEST_SKIP() << "wants one rank on a GPU";
  if (kernels::CudnnVersion().empty()) GTEST_SKIP() << "wants cuDNN, whose workspace is too big";
  // All scores of 16 sequences and 4 heads in bf16: 512 MiB.
  const ResolvedJob job =
      JobOf({"tiny-dense.textproto",
             {"device=CUDA", "precision.compute=bf16", "train.global_batch_sequences=16",
              "schedule.microbatches=1", "model.layers=1", "model.max_positions=2048",
              "train.sequence_length=2048", "data.synthetic.tokens=65536"}},
            1);
  const std::string directory = SharedTemporaryDirectory(TestWorld());
  {
    auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    ASSERT_TRUE(trainer.ok()) << trainer.status();
    const auto taken = TakeAllBut(int64_t{256} << 20, parallel::TestGpu());
    const absl::Status status = (*trainer)->WarmUp();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    const kernels::ArenaPlan& plan = (*trainer)->state().plan;
    for (const std::string& wanted :
         {std::string("allocating "),
          std::string("memory plan of ") + std::to_string(plan.total_bytes()) + " bytes",
          plan.Describe(8)}) {
      EXPECT_NE(status.message().find(wanted), absl::string_view::npos) << wanted << "\nis not in\n"
                                                                        << status;
    }
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace muster::runtime
