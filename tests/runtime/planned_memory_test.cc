// What ranks will allocate, worked out offline. That it is what they do allocate is checked in
// every comparison with one rank (tests/support/runtime/parity_errors.cc).
#include "runtime/train/planned_memory.h"

#include <gtest/gtest.h>

#include "kernels/base/error.h"
#include "parallel/mesh/mesh.h"
#include "runtime/job/config.h"

namespace muster::runtime {
namespace {

// By pipeline rank.
std::vector<PlannedMemory> Planned(const std::vector<std::string>& overrides, int ranks) {
  const std::string path = MUSTER_SOURCE_DIR "/configs/jobs/tiny-dense.textproto";
  ResolvedJob job;
  std::vector<ConfigProblem> problems;
  MUSTER_CHECK(LoadJob(path, overrides, ranks, &job, &problems)) << Describe(problems, path);
  std::vector<PlannedMemory> planned;
  for (const int rank : parallel::GroupRanks(parallel::Axis::kPipeline, 0, job.mesh)) {
    const auto memory = PlanMemory(job, rank);
    MUSTER_CHECK_OK(memory.status());
    planned.push_back(*memory);
  }
  return planned;
}

std::vector<PlannedMemory> PlannedPipeline(const std::string& kind, bool recompute) {
  return Planned({"mesh.pp=4", "model.layers=8", "schedule.microbatches=8", "schedule.kind=" + kind,
                  recompute ? "recompute.block=true" : "recompute.block=false"},
                 4);
}

// Rank r of ZB-H1 puts r weight gradients off, so its recomputed activations wait r + 1 times,
// against 4 slots of kept ones: a saving on all ranks but the last.
TEST(PlannedMemory, RecomputationLowersThePeakOfSplitBackwards) {
  const std::vector<PlannedMemory> kept = PlannedPipeline("zb_h1", false);
  const std::vector<PlannedMemory> recomputed = PlannedPipeline("zb_h1", true);
  int64_t before = recomputed[0].activation_bytes;
  for (size_t rank = 1; rank < 4; ++rank) {
    EXPECT_GT(recomputed[rank].activation_bytes, before) << rank;
    before = recomputed[rank].activation_bytes;
  }
  EXPECT_LT(recomputed[0].total_bytes(), kept[0].total_bytes());
  EXPECT_LT(recomputed[0].activation_bytes, kept[0].activation_bytes / 2);
  EXPECT_LT(recomputed[1].activation_bytes, kept[1].activation_bytes);
  for (const std::string kind : {"zb_v", "dualpipev"}) {
    const std::vector<PlannedMemory> with = PlannedPipeline(kind, true);
    const std::vector<PlannedMemory> without = PlannedPipeline(kind, false);
    for (size_t rank = 0; rank < 3; ++rank) {
      EXPECT_LT(with[rank].total_bytes(), without[rank].total_bytes()) << kind << " rank " << rank;
    }
  }
}

TEST(PlannedMemory, NeedsNoneOfTheRanksItIsAbout) {
  const int64_t of_8 = Planned({"train.global_batch_sequences=2048"}, 8)[0].held_bytes;
  const int64_t of_1024 = Planned({"train.global_batch_sequences=2048"}, 1024)[0].held_bytes;
  EXPECT_LT(of_1024, of_8);  // optimizer state is sharded over the replicas
  const auto tensor = Planned({"mesh.tp=2", "mesh.cp=2", "zero.level=3"}, 8);
  EXPECT_LT(tensor[0].total_bytes(), Planned({}, 8)[0].total_bytes());
}

}  // namespace
}  // namespace muster::runtime
