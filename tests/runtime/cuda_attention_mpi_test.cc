// Attention that cuDNN does not take ends a job on GPUs before its first step, unless the job asks
// for the direct kernels.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "kernels/ops/attention_support.h"
#include "runtime/train/trainer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using parallel::TestWorld;

// Of sequences of one token, of which cuDNN has no backward: a shape that no rule of configs
// refuses.
absl::Status WarmUpWith(const std::string& kernel) {
  const std::vector<std::string> overrides = {
      "device=CUDA",      "precision.compute=bf16", "precision.attention_kernel=" + kernel,
      "goodput.peak=0.1", "log.progress=false",     "train.sequence_length=1",
      "train.steps=1"};
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-dense.textproto";
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, 1, &job, &problems)) << Describe(problems, path);
  const std::string directory = SharedTemporaryDirectory(TestWorld());
  absl::Status status;
  {
    const auto trainer = Trainer::Create(
        job, TestWorld(), {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
    status = trainer.ok() ? (*trainer)->WarmUp() : trainer.status();
  }
  std::filesystem::remove_all(directory);
  return status;
}

TEST(CudaAttentionOfJobs, RunsOnCudnnOrNotAtAllUnlessAskedFor) {
  if (TestWorld().size() != 1 || !parallel::HasGpus()) GTEST_SKIP() << "wants one rank on a GPU";
  if (kernels::CudnnVersion().empty()) GTEST_SKIP() << "wants cuDNN";
  const absl::Status refused = WarmUpWith("CUDNN");
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented) << refused;
  for (const char* wanted : {"cuDNN ", " s1/1 h4/2 d16/16 causal: ", "attention_kernel=DIRECT"}) {
    EXPECT_NE(refused.message().find(wanted), absl::string_view::npos)
        << wanted << " is not in " << refused;
  }
  const absl::Status allowed = WarmUpWith("DIRECT");
  EXPECT_TRUE(allowed.ok()) << allowed;
}

}  // namespace
}  // namespace muster::runtime
