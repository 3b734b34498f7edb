// Which products ranks will ask for, worked out offline. That these are what they do ask for is
// checked in every comparison with one rank (tests/support/runtime/parity_errors.cc).
#include "runtime/train/planned_matmuls.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/base/error.h"
#include "runtime/job/config.h"

namespace muster::runtime {
namespace {

std::set<kernels::MatmulKey> Planned(const std::vector<std::string>& overrides, int ranks,
                                     int rank) {
  const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, ranks, &job, &problems)) << Describe(problems, path);
  const auto planned = PlanMatmuls(job, rank);
  MUSTER_CHECK_OK(planned.status());
  return *planned;
}

int64_t NumAdding(const std::set<kernels::MatmulKey>& keys) {
  return std::count_if(keys.begin(), keys.end(),
                       [](const kernels::MatmulKey& key) { return key.accumulate; });
}

// A layer's weight gradient is written by the first microbatch and added to by the rest.
TEST(PlannedMatmuls, SumsOverMicrobatchesAreProductsOfTheirOwn) {
  const auto one = Planned({"schedule.microbatches=1"}, 1, 0);
  const auto two = Planned({"schedule.microbatches=2"}, 1, 0);
  const auto four = Planned({"schedule.microbatches=4"}, 1, 0);
  EXPECT_GT(NumAdding(two), NumAdding(one));
  EXPECT_EQ(NumAdding(four), NumAdding(two));
}

TEST(PlannedMatmuls, StagesOfAPipelineAskForTheirOwn) {
  const std::vector<std::string> pipeline = {"mesh.pp=4", "schedule.microbatches=4"};
  const auto first = Planned(pipeline, 4, 0);
  const auto second = Planned(pipeline, 4, 1);
  const auto last = Planned(pipeline, 4, 3);
  EXPECT_EQ(first, second) << "a lookup of embeddings is no product";
  EXPECT_TRUE(std::includes(last.begin(), last.end(), second.begin(), second.end()));
  EXPECT_GT(last.size(), second.size()) << "the last one has the vocabulary's";
}

// Neither takes the memory, nor any time to speak of, nor another rank.
TEST(PlannedMatmuls, AreKnownForJobsThatFitNoHostHere) {
  const auto llama = Planned({"model_file=" MUSTER_SOURCE_DIR "/configs/models/llama3-8b.textproto",
                              "train.sequence_length=8192", "train.global_batch_sequences=8",
                              "schedule.microbatches=1", "precision.compute=bf16", "zero.level=2"},
                             8, 5);
  // Forward, input gradient and weight gradient of four linear layers and of the output, whose
  // chunks of tokens add to its weight's gradient after the first has written it.
  EXPECT_EQ(llama.size(), 16u);
  EXPECT_EQ(NumAdding(llama), 1);
  EXPECT_TRUE(std::all_of(llama.begin(), llama.end(), kernels::IsSearched));
}

}  // namespace
}  // namespace muster::runtime
