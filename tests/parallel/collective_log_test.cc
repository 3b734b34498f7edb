#include "parallel/comm/collective_log.h"

#include <gtest/gtest.h>

#include "kernels/device/stream.h"
#include "parallel/comm/collectives.h"
#include "parallel/comm/rendezvous.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::parallel {
namespace {

using State = CollectiveEntry::State;

TEST(CollectiveLog, FollowsACallFromEnqueuedToDone) {
  CollectiveLog log(4);
  const uint64_t id = log.Enqueued("dp", 7, CollectiveKind::kAllGather, 48, "models/gpt.cc:12");
  ASSERT_EQ(log.Entries().size(), 1u);
  EXPECT_EQ(log.Entries()[0].state, State::kEnqueued);
  EXPECT_NE(log.DescribePending().find(
                "all_gather #7 of group dp, 48 bytes, from models/gpt.cc:12: enqueued"),
            std::string::npos)
      << log.DescribePending();
  log.Started(id);
  EXPECT_EQ(log.Entries()[0].state, State::kStarted);
  EXPECT_NE(log.DescribePending().find("started"), std::string::npos);
  log.Done(id, true);
  const CollectiveEntry entry = log.Entries()[0];
  EXPECT_EQ(entry.state, State::kDone);
  EXPECT_LE(entry.enqueued_ns, entry.started_ns);
  EXPECT_LE(entry.started_ns, entry.done_ns);
}

TEST(CollectiveLog, KeepsTheLatestEntriesOldestFirst) {
  CollectiveLog log(3);
  for (uint64_t i = 0; i < 5; ++i) log.Enqueued("dp", i, CollectiveKind::kBarrier, 0, "x.cc:1");
  log.Done(0, true);  // long gone: must not touch the entry that took its place
  const auto entries = log.Entries();
  ASSERT_EQ(entries.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(entries[i].id, i + 2);
    EXPECT_EQ(entries[i].state, State::kEnqueued);
  }
}

TEST(CollectiveLog, DescribesTheLastCallWhenNothingIsPending) {
  CollectiveLog log;
  EXPECT_NE(log.DescribePending().find("no collective"), std::string::npos);
  log.Done(log.Enqueued("ep", 0, CollectiveKind::kAllToAll, 8, "a.cc:1"), true);
  log.Done(log.Enqueued("dp", 0, CollectiveKind::kAllReduce, 4, "b.cc:2"), false);
  const std::string text = log.DescribePending();
  EXPECT_NE(text.find("all_reduce #0 of group dp"), std::string::npos) << text;
  EXPECT_NE(text.find("failed"), std::string::npos) << text;
  EXPECT_EQ(text.find("all_to_all"), std::string::npos) << text;
}

TEST(GroupOfOne, CopiesOrLeavesDataAsItIs) {
  using kernels::DType;
  auto world = World::Alone();
  auto group = world->NewGroup("dp", {0}, kExposedDp, kernels::Device{});
  ASSERT_TRUE(group.ok());
  auto stream = kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
  ASSERT_TRUE(stream.ok());
  const auto in = kernels::RandomTensor(DType::kBFloat16, {4, 3}, "in");
  const auto gathered = kernels::MakeTensor(DType::kBFloat16, {4, 3});
  const auto scattered = kernels::MakeTensor(DType::kBFloat16, {4, 3});
  const auto exchanged = kernels::MakeTensor(DType::kBFloat16, {6, 3});
  const auto counts = kernels::TensorOf(DType::kInt64, {1}, {4});
  const std::vector<double> before = kernels::Values(in.view());
  EXPECT_TRUE(AllReduce(in.view(), ReduceOp::kSum, **group, stream->view()).ok());
  EXPECT_TRUE(AllGather(in.view(), gathered.view(), **group, stream->view()).ok());
  EXPECT_TRUE(
      ReduceScatter(in.view(), scattered.view(), ReduceOp::kSum, **group, stream->view()).ok());
  EXPECT_TRUE(
      AllToAll(in.view(), exchanged.view(), counts.view(), counts.view(), **group, stream->view())
          .ok());
  EXPECT_TRUE(Broadcast(in.view(), 0, **group, stream->view()).ok());
  EXPECT_TRUE(Barrier(**group, stream->view()).ok());
  EXPECT_TRUE(stream->view().Synchronize().ok());
  EXPECT_EQ(kernels::Values(in.view()), before);
  EXPECT_EQ(kernels::Values(gathered.view()), before);
  EXPECT_EQ(kernels::Values(scattered.view()), before);
  EXPECT_EQ(kernels::Values(exchanged.view().Slice(0, 0, 4)), before);
}

TEST(GroupOfOne, RefusesCountsThatDoNotAgree) {
  auto world = World::Alone();
  auto group = world->NewGroup("ep", {0}, kExposedEp, kernels::Device{});
  auto stream = kernels::Stream::Create({}, kernels::StreamMode::kInline, "compute");
  const auto rows = kernels::RandomTensor(kernels::DType::kFloat32, {4, 3}, "in");
  const auto out = kernels::MakeTensor(kernels::DType::kFloat32, {4, 3});
  const auto two = kernels::TensorOf(kernels::DType::kInt64, {1}, {2});
  const auto three = kernels::TensorOf(kernels::DType::kInt64, {1}, {3});
  EXPECT_TRUE(
      AllToAll(rows.view(), out.view(), two.view(), three.view(), **group, stream->view()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(stream->view().Synchronize()));
}

}  // namespace
}  // namespace muster::parallel
