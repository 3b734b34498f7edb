// All communicators of a job are made, and have opened their connections, before the model takes
// memory: memory that connections take later, NCCL's above all, would be missing in the plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "kernels/base/error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/runtime/training_run.h"

namespace muster::runtime {
namespace {

using parallel::CollectiveEntry;
using parallel::CollectiveKind;

// A barrier, or the first message of a pipeline's channel.
bool OpensConnections(const CollectiveEntry& call) {
  return call.kind == CollectiveKind::kBarrier || call.kind == CollectiveKind::kSend ||
         call.kind == CollectiveKind::kReceive;
}

TEST(Communicators, AreMadeAndOpenedBeforeAnyOtherCall) {
  const int ranks = parallel::TestWorld().size();
  if (ranks == 1) GTEST_SKIP() << "nobody to connect to";
  std::vector<std::string> overrides = {
      "model.tied_embeddings=true", "train.global_batch_sequences=12", "schedule.microbatches=2"};
  if (ranks % 2 == 0) overrides.push_back("mesh.pp=2");
  if (ranks == 4) overrides.insert(overrides.end(), {"mesh.ep=2", "zero.shard_ranks=1"});
  auto world = parallel::World::Create({.deadline = std::chrono::seconds(60)});
  MUSTER_CHECK_OK(world.status());
  (void)Train(**world, "tiny-moe.textproto", overrides, /*steps=*/1);

  const std::vector<CollectiveEntry> calls = (*world)->log().Entries();
  ASSERT_FALSE(calls.empty());
  ASSERT_EQ(calls.front().id, 0u) << "the log has lost the job's first calls";
  std::map<std::string, const CollectiveEntry*> first;
  for (const CollectiveEntry& call : calls) first.try_emplace(call.group, &call);
  uint64_t last_opened = 0;
  for (const parallel::CollectiveGroup& group : (*world)->log().Groups()) {
    ASSERT_TRUE(first.contains(group.name)) << group.name << " was never opened";
    EXPECT_TRUE(OpensConnections(*first[group.name])) << group.name;
    last_opened = std::max(last_opened, first[group.name]->id);
  }
  for (const CollectiveEntry& call : calls) {
    if (call.id > last_opened) break;
    EXPECT_TRUE(OpensConnections(call) && call.place.step < 0)
        << Name(call.kind) << " of " << call.group << " from " << call.site
        << " comes before all groups are open";
  }
  EXPECT_GT(calls.back().id, last_opened + 10) << "the job made no other call";
}

}  // namespace
}  // namespace muster::runtime
