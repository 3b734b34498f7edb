// The parity matrix on GPUs: a job on every layout of as many ranks as the test has, each on a GPU
// of its own, computes what it computes on one GPU; and that is what it computes on the CPU. Fewer
// steps than on CPU ranks: most of the time goes into communicators.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/ops/attention_support.h"
#include "tests/parity/layouts.h"
#include "tests/parity/train_layout.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/parity_errors.h"

namespace muster::runtime {
namespace {

constexpr int64_t kSteps = 6;
constexpr char kBf16[] = "precision.compute=bf16 ";

// On one GPU, once for each model and precision. All ranks of a host share its first GPU for this.
const TrainingRun& OnOneGpu(const ParityModel& model, const std::string& precision) {
  static std::map<std::string, TrainingRun> runs;
  const auto [run, is_new] = runs.try_emplace(absl::StrCat(model.name, precision));
  if (is_new) {
    const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
    run->second = TrainModel(*alone, model, absl::StrCat("device=CUDA ", precision), kSteps);
  }
  return run->second;
}

class OnGpus : public testing::TestWithParam<Layout> {
 protected:
  void SetUp() override {
    if (!parallel::HasGpus()) GTEST_SKIP() << "wants a GPU for each rank";
    if (GetParam().ranks != parallel::TestWorld().size()) {
      GTEST_SKIP() << "wants " << GetParam().ranks << " ranks";
    }
  }
  static void ExpectEqualToOneGpu(const std::string& precision, const ParityTolerance& tolerance) {
    const Layout& layout = GetParam();
    const ParityModel& model = ParityModelNamed(layout.model);
    const TrainingRun& one = OnOneGpu(model, precision);
    const TrainingRun many =
        TrainModel(parallel::TestWorld(), model,
                   absl::StrCat("device=CUDA ", precision, layout.overrides), kSteps);
    const ParityErrors errors = ExpectEqualToOneRank(one, many, parallel::TestWorld(), tolerance);
    if (parallel::TestWorld().rank() == 0) {
      std::printf("largest difference: %.1e of a loss, %.1e of a gradient\n", errors.loss,
                  errors.gradient);
    }
  }
};

class CudaLayouts : public OnGpus {};
TEST_P(CudaLayouts, EqualOneGpu) { ExpectEqualToOneGpu("", {}); }
INSTANTIATE_TEST_SUITE_P(Fp32, CudaLayouts, testing::ValuesIn(AllLayouts()), LayoutName);

// In bf16 every product and sum that a layout cuts otherwise is rounded otherwise, to 8 bits; and a
// token whose choice of experts is close may choose others.
class CudaLayoutsInBf16 : public OnGpus {
 protected:
  void SetUp() override {
    OnGpus::SetUp();
    if (!IsSkipped() && kernels::CudnnVersion().empty()) GTEST_SKIP() << "wants cuDNN";
  }
};
TEST_P(CudaLayoutsInBf16, EqualOneGpu) {
  const bool routed = std::string(GetParam().model).starts_with("moe");
  ExpectEqualToOneGpu(kBf16, routed ? ParityTolerance{1e-3, 2e-1} : ParityTolerance{2e-4, 2e-2});
}
INSTANTIATE_TEST_SUITE_P(
    Bf16, CudaLayoutsInBf16,
    testing::Values(Layout{"llama", 2, "mesh.dp=2 zero.level=3"}, Layout{"llama", 2, "mesh.tp=2"},
                    Layout{"llama", 2, "mesh.cp=2"},
                    Layout{"llama", 2, "mesh.pp=2 schedule.kind=zb_h1 schedule.microbatches=4"},
                    Layout{"gpt2", 2, "mesh.tp=2 mesh.sequence_parallel=false"},
                    Layout{"moe", 2, "mesh.dp=2 mesh.ep=2"},
                    Layout{"llama", 4, "mesh.tp=2 mesh.cp=2 mesh.context_exchange=ALL_GATHER"},
                    Layout{"gpt2", 4, "mesh.dp=2 mesh.pp=2 schedule.microbatches=4"},
                    Layout{"moe", 4, "mesh.dp=2 mesh.tp=2 mesh.ep=4"}),
    LayoutName);

// One GPU against one CPU, whose operators are the specification.
class CudaBackend : public OnGpus {};
TEST_P(CudaBackend, EqualsCpu) {
  const ParityModel& model = ParityModelNamed(GetParam().model);
  const std::unique_ptr<parallel::World> alone = parallel::World::Alone();
  const TrainingRun cpu = TrainModel(*alone, model, "", kSteps);
  const ParityErrors errors = ExpectEqualToOneRank(cpu, OnOneGpu(model, ""), *alone);
  std::printf("largest difference: %.1e of a loss, %.1e of a gradient\n", errors.loss,
              errors.gradient);
}
INSTANTIATE_TEST_SUITE_P(Fp32, CudaBackend,
                         testing::Values(Layout{"llama", 1, ""}, Layout{"gpt2", 1, ""},
                                         Layout{"moe", 1, ""}, Layout{"moe-bias", 1, ""},
                                         Layout{"moe-capacity", 1, ""}),
                         LayoutName);

}  // namespace
}  // namespace muster::runtime
