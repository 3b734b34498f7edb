// The weights that a run leaves do not depend on how its ranks held them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

// Runs to the end; the bytes of every weight file by name, on rank 0.
std::map<std::string, std::string> FinalWeights(const std::vector<std::string>& overrides) {
  parallel::World& world = parallel::TestWorld();
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
  std::vector<std::string> all = {"train.steps=2",           "train.global_batch_sequences=12",
                                  "schedule.microbatches=1", "goodput.peak=0.1",
                                  "log.progress=false",      "communication.bucket_megabytes=0.05"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  MUSTER_CHECK(LoadJob(path, all, world.size(), &job, &problems)) << Describe(problems, path);
  const std::string directory = SharedTemporaryDirectory(world);
  auto trainer = Trainer::Create(
      job, world, {.run_directory = directory, .process_start_ns = kernels::MonotonicNs()});
  MUSTER_CHECK_OK(trainer.status());
  MUSTER_CHECK_OK((*trainer)->Run().status());
  trainer->reset();
  MUSTER_CHECK_OK(world.GatherText("").status());
  std::map<std::string, std::string> files;
  if (world.rank() == 0) {
    for (const auto& file : std::filesystem::directory_iterator(directory + "/weights")) {
      std::ifstream stream(file.path(), std::ios::binary);
      files[file.path().filename().string()] = {std::istreambuf_iterator<char>(stream), {}};
    }
    std::filesystem::remove_all(directory);
  }
  return files;
}

TEST(FinalWeights, AreTheSameFilesAtEveryZeroLevel) {
  const auto wanted = FinalWeights({"zero.level=1"});
  if (parallel::TestWorld().rank() == 0) EXPECT_GE(wanted.size(), 2u);
  for (const std::string level : {"zero.level=2", "zero.level=3"}) {
    EXPECT_TRUE(FinalWeights({level}) == wanted) << level;
  }
}

// Attempt 1 of a run of one step, in which another attempt and a user have left things.
class FinalWeightsInAUsedRun : public ::testing::Test {
 protected:
  FinalWeightsInAUsedRun() : directory_(SharedTemporaryDirectory(parallel::TestWorld())) {
    if (parallel::TestWorld().rank() != 0) return;
    for (const char* left : {"weights/notes", "weights.partial", "weights.attempt-0.partial"}) {
      std::filesystem::create_directories(directory_ + "/" + left);
    }
  }
  ~FinalWeightsInAUsedRun() override {
    MUSTER_CHECK_OK(parallel::TestWorld().GatherText("").status());
    if (parallel::TestWorld().rank() == 0) std::filesystem::remove_all(directory_);
  }
  absl::Status Train() {
    parallel::World& world = parallel::TestWorld();
    ResolvedJob job;
    std::vector<ConfigProblem> problems;
    const std::string path = std::string(MUSTER_SOURCE_DIR) + "/configs/jobs/tiny-moe.textproto";
    MUSTER_CHECK(LoadJob(path,
                         {"train.steps=1", "train.global_batch_sequences=12", "goodput.peak=0.1",
                          "schedule.microbatches=1", "log.progress=false"},
                         world.size(), &job, &problems))
        << Describe(problems, path);
    auto trainer = Trainer::Create(
        job, world,
        {.run_directory = directory_, .attempt = 1, .process_start_ns = kernels::MonotonicNs()});
    MUSTER_CHECK_OK(trainer.status());
    return (*trainer)->Run().status();
  }
  bool Has(const std::string& name) const {
    return std::filesystem::exists(directory_ + "/" + name);
  }
  const std::string directory_;
};

TEST_F(FinalWeightsInAUsedRun, ReplaceOldOnesAndDeleteNoDirectoryOfAUsers) {
  const absl::Status trained = Train();
  EXPECT_TRUE(trained.ok()) << trained;
  EXPECT_TRUE(Has("weights/model.safetensors.index.json"));
  EXPECT_FALSE(Has("weights.partial") || Has("weights.attempt-0.partial"));
  EXPECT_TRUE(Has("weights.attempt-1.partial/notes"));  // what was in the way, for a person to see
}

TEST_F(FinalWeightsInAUsedRun, AreNotWrittenByAnAttemptThatWasReplaced) {
  if (parallel::TestWorld().rank() == 0) std::ofstream(directory_ + "/epoch") << "2\n";
  MUSTER_CHECK_OK(parallel::TestWorld().GatherText("").status());
  const absl::Status trained = Train();
  EXPECT_TRUE(absl::IsAborted(trained)) << trained;
  EXPECT_FALSE(Has("weights/model.safetensors.index.json"));
  EXPECT_FALSE(Has("weights.attempt-1.partial"));
}

}  // namespace
}  // namespace muster::runtime
