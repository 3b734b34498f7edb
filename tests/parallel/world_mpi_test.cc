// Worlds, meshes, deadlines and injected links over any number of ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"
#include "parallel/comm/rendezvous.h"
#include "parallel/mesh/mesh.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/mpi_main.h"
#include "tests/support/sanitizers.h"

namespace muster::parallel {
namespace {

using kernels::DType;
using kernels::MakeTensor;
using kernels::Stream;
using kernels::StreamMode;
using kernels::Tensor;
using std::chrono::milliseconds;

Stream MakeStream(StreamMode mode) {
  auto stream = Stream::Create({}, mode, "comm");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

std::unique_ptr<World> MakeWorld(const WorldOptions& options) {
  auto world = World::Create(options);
  MUSTER_CHECK_OK(world.status());
  return *std::move(world);
}

double MillisecondsOf(const std::function<void()>& work) {
  const int64_t begin = kernels::MonotonicNs();
  work();
  return static_cast<double>(kernels::MonotonicNs() - begin) * 1e-6;
}

TEST(World, GathersTextByRank) {
  World& world = TestWorld();
  const auto texts =
      world.GatherText(std::string(static_cast<size_t>(world.rank()) * 3, 'a' + world.rank()));
  ASSERT_TRUE(texts.ok());
  ASSERT_EQ(static_cast<int>(texts->size()), world.size());
  for (int rank = 0; rank < world.size(); ++rank) {
    EXPECT_EQ((*texts)[static_cast<size_t>(rank)],
              std::string(static_cast<size_t>(rank) * 3, 'a' + rank));
  }
  EXPECT_LT(world.local_rank(), world.local_size());
  EXPECT_FALSE(world.host().empty());
}

TEST(World, AloneIsOfSizeOneUnderAnyLauncher) {
  const auto world = World::Alone();
  EXPECT_EQ(world->size(), 1);
  const auto texts = world->GatherText("x");
  ASSERT_TRUE(texts.ok());
  EXPECT_EQ(*texts, std::vector<std::string>{"x"});
}

// Each group's sum of world ranks is what its list of ranks says.
TEST(Mesh, GroupsReduceOverTheRanksOfTheirAxis) {
  World& world = TestWorld();
  const int size = world.size();
  std::vector<MeshDegrees> meshes = {{.dp = size}, {.dp = size, .ep = size}};
  if (size == 4) {
    meshes.push_back({.dp = 2, .tp = 2, .ep = 2});
    meshes.push_back({.dp = 1, .tp = 1, .cp = 2, .pp = 2, .ep = 1, .etp = 2});
  }
  const Stream stream = MakeStream(StreamMode::kInline);
  for (const MeshDegrees& degrees : meshes) {
    const auto mesh = Mesh::Create(world, degrees, kernels::Device{});
    ASSERT_TRUE(mesh.ok()) << mesh.status().ToString();
    for (int axis = 0; axis <= static_cast<int>(Axis::kWorld); ++axis) {
      const ProcessGroup& group = (*mesh)->Group(static_cast<Axis>(axis));
      const auto ranks = GroupRanks(static_cast<Axis>(axis), world.rank(), degrees);
      EXPECT_EQ(group.world_ranks(), ranks);
      const Tensor sum = kernels::TensorOf(DType::kInt32, {1}, {double(1 << world.rank())});
      ASSERT_TRUE(AllReduce(sum.view(), ReduceOp::kSum, group, stream.view()).ok());
      int expected = 0;
      for (const int rank : ranks) expected |= 1 << rank;
      EXPECT_EQ(sum.view().as<int32_t>()[0], expected)
          << Name(static_cast<Axis>(axis)) << " of " << degrees.ToString();
    }
  }
}

// Its ranks are there all the same, for whoever wants their numbers.
TEST(Mesh, SilentGroupsRefuseCollectivesAndMakeNoCommunicator) {
  World& world = TestWorld();
  const MeshDegrees degrees = {.dp = world.size()};
  const size_t groups_before = world.log().Groups().size();
  const auto mesh =
      Mesh::Create(world, degrees, kernels::Device{}, {Axis::kData, Axis::kStage, Axis::kWorld});
  ASSERT_TRUE(mesh.ok()) << mesh.status();
  const ProcessGroup& group = (*mesh)->Group(Axis::kData);
  EXPECT_EQ(group.world_ranks(), GroupRanks(Axis::kData, world.rank(), degrees));
  EXPECT_EQ(group.rank(), world.rank());
  if (world.size() == 1) return;
  EXPECT_EQ(world.log().Groups().size(), groups_before + 2) << "dp_cp and edp";
  const Stream stream = MakeStream(StreamMode::kInline);
  const Tensor sum = kernels::TensorOf(DType::kInt32, {1}, {1});
  const absl::Status refused = AllReduce(sum.view(), ReduceOp::kSum, group, stream.view());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_NE(refused.message().find("group dp,"), std::string::npos) << refused;
  EXPECT_TRUE(stream.view().status().ok());
  const ProcessGroup& replicas = (*mesh)->Group(Axis::kDenseReplica);
  ASSERT_TRUE(AllReduce(sum.view(), ReduceOp::kSum, replicas, stream.view()).ok());
  EXPECT_EQ(sum.view().as<int32_t>()[0], world.size());
}

class Deadline : public testing::TestWithParam<StreamMode> {};

TEST_P(Deadline, FailsOnTheOthersWhenARankSkipsACollective) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "nobody to wait for";
  const auto world = MakeWorld({.deadline = milliseconds(300)});
  const auto group = GroupOfAll(*world, "short");
  const Stream stream = MakeStream(GetParam());
  const Tensor small = kernels::RandomTensor(DType::kFloat32, {100}, "x");
  const Tensor large = kernels::RandomTensor(DType::kFloat32, {600'001}, "x");
  const int absent = world->size() - 1;
  ASSERT_TRUE(AllReduce(small.view(), ReduceOp::kSum, *group, stream.view()).ok());
  ASSERT_TRUE(stream.view().Synchronize().ok());
  if (world->rank() != absent) {
    const int64_t begin = kernels::MonotonicNs();
    const absl::Status called = AllReduce(large.view(), ReduceOp::kSum, *group, stream.view());
    const absl::Status status = stream.view().Synchronize();
    const double ms = static_cast<double>(kernels::MonotonicNs() - begin) * 1e-6;
    EXPECT_TRUE(called.ok() || GetParam() == StreamMode::kInline);
    ASSERT_TRUE(absl::IsDeadlineExceeded(status)) << status.ToString();
    EXPECT_GE(ms, 300);
    EXPECT_LT(ms, 1300);
    const std::string text(status.message());
    for (const std::string& part : {std::string("all_reduce #1 of group short, 2400004 bytes"),
                                    std::string("from tests/parallel/world_mpi_test.cc:"),
                                    "failed on world rank " + std::to_string(world->rank()),
                                    "no message came from world rank " + std::to_string(absent),
                                    std::string("300 ms"), std::string("pending: all_reduce #1")}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << "\nnot in\n" << text;
    }
    // The group stays broken: later calls give the first error, at once.
    const double later_ms = MillisecondsOf([&] {
      const absl::Status later = Barrier(*group, stream.view());
      EXPECT_EQ(later, status);
    });
    EXPECT_LT(later_ms, 100);
    EXPECT_EQ(world->log().Entries()[1].state, CollectiveEntry::State::kFailed);
  }
  // MPI lives on: the other world's groups still work.
  const auto healthy = GroupOfAll(TestWorld());
  const Stream other = MakeStream(GetParam());
  ASSERT_TRUE(Barrier(*healthy, other.view()).ok());
  ASSERT_TRUE(other.view().Synchronize().ok());
}
INSTANTIATE_TEST_SUITE_P(Mpi, Deadline, testing::Values(StreamMode::kInline, StreamMode::kQueue));

// Deadlines follow the steps; calls behind them do not.
TEST(BackgroundDeadline, OfGroupsForCheckpointsDoesNotFollowTheWorlds) {
  const auto world = MakeWorld({});
  std::vector<int> ranks;
  for (int rank = 0; rank < world->size(); ++rank) ranks.push_back(rank);
  const auto group = world->NewGroup("tier", ranks, kCheckpoint, kernels::Device{});
  ASSERT_TRUE(group.ok()) << group.status();
  world->SetDeadline(milliseconds(1));
  const Stream stream = MakeStream(StreamMode::kInline);
  if (world->rank() == 0) std::this_thread::sleep_for(milliseconds(200));
  EXPECT_TRUE(Barrier(**group, stream.view()).ok());
  EXPECT_TRUE(stream.view().Synchronize().ok());
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

TEST(NewGroup, FailsWhenARankStaysAway) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "nobody to wait for";
  const auto world = MakeWorld({.deadline = milliseconds(200)});
  std::vector<int> ranks;
  for (int rank = 0; rank < world->size(); ++rank) ranks.push_back(rank);
  if (world->rank() != 0) {
    const auto group = world->NewGroup("dp", ranks, kExposedDp, kernels::Device{});
    ASSERT_TRUE(absl::IsDeadlineExceeded(group.status())) << group.status().ToString();
    EXPECT_NE(group.status().message().find("making group dp"), std::string::npos);
    EXPECT_NE(group.status().message().find("from world rank 0"), std::string::npos);
  }
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

TEST(NewGroup, FailsWhenRanksDisagreeOnWhichGroup) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "nobody to disagree with";
  const auto world = MakeWorld({.deadline = milliseconds(5000)});
  std::vector<int> ranks;
  for (int rank = 0; rank < world->size(); ++rank) ranks.push_back(rank);
  const auto group =
      world->NewGroup(world->rank() == 0 ? "dp" : "ep", ranks, kExposedDp, kernels::Device{});
  ASSERT_TRUE(absl::IsFailedPrecondition(group.status())) << group.status().ToString();
  EXPECT_NE(group.status().message().find("is making another group"), std::string::npos);
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

// Rank 0 sends one row more, then one row fewer, than the others expect.
TEST(AllToAll, TellsWhenCountsDoNotMatch) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "one rank's counts are checked elsewhere";
  for (const int64_t surplus : {1, -1}) {
    const auto world = MakeWorld({.deadline = milliseconds(300)});
    const auto group = GroupOfAll(*world);
    const Stream stream = MakeStream(StreamMode::kInline);
    const int size = group->size();
    const Tensor in = kernels::RandomTensor(DType::kFloat32, {10 * size, 2}, "in");
    const Tensor out = MakeTensor(DType::kFloat32, {10 * size, 2});
    const Tensor send =
        kernels::TensorOf(DType::kInt64, {size}, std::vector<double>(static_cast<size_t>(size), 3));
    const Tensor receive =
        kernels::TensorOf(DType::kInt64, {size}, std::vector<double>(static_cast<size_t>(size), 3));
    if (group->rank() == 0) send.view().as<int64_t>()[size - 1] += surplus;
    (void)AllToAll(in.view(), out.view(), send.view(), receive.view(), *group, stream.view());
    const absl::Status status = stream.view().Synchronize();
    if (group->rank() == size - 1) {
      ASSERT_TRUE(absl::IsInvalidArgument(status)) << status.ToString();
      const std::string text(status.message());
      EXPECT_NE(text.find("world rank 0 sent"), std::string::npos) << text;
      EXPECT_NE(text.find(surplus > 0 ? "more than the 24 bytes"
                                      : "16 bytes where this rank expected 24"),
                std::string::npos)
          << text;
      EXPECT_NE(text.find("all_to_all #0 of group all"), std::string::npos) << text;
    }
    ASSERT_TRUE(TestWorld().GatherText("").ok());
  }
}

TEST(AllToAll, RefusesCountsThatDoNotFitBeforeSending) {
  if (TestWorld().size() == 1) GTEST_SKIP() << "one rank's counts are checked elsewhere";
  const auto world = MakeWorld({.deadline = milliseconds(300)});
  const auto group = GroupOfAll(*world);
  const Stream stream = MakeStream(StreamMode::kInline);
  const int size = group->size();
  const Tensor rows = MakeTensor(DType::kFloat32, {size, 2}),
               out = MakeTensor(DType::kFloat32, {size, 2});
  const Tensor counts =
      kernels::TensorOf(DType::kInt64, {size}, std::vector<double>(static_cast<size_t>(size), 2));
  (void)AllToAll(rows.view(), out.view(), counts.view(), counts.view(), *group, stream.view());
  const absl::Status status = stream.view().Synchronize();
  ASSERT_TRUE(absl::IsInvalidArgument(status)) << status.ToString();
  EXPECT_NE(status.message().find("send_counts["), std::string::npos) << status.ToString();
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

class SlowLink : public testing::Test {
 protected:
  SlowLink()
      : world_(MakeWorld({.injected_link = {.latency_us = 10'000, .gigabytes_per_second = 0.01}})),
        group_(GroupOfAll(*world_)),
        size_(group_->size()) {}
  // Of one step of `messages` messages with `bytes` in all, from the documented model.
  double ExpectedMs(int messages, int64_t bytes) const {
    return 10.0 * messages + static_cast<double>(bytes) / 0.01e6;
  }
  // The fastest of a few runs that all ranks start together: the machine may be busy.
  double BestMs(const std::function<void()>& work) {
    double best = 1e30;
    for (int run = 0; run < 5; ++run) {
      MUSTER_CHECK_OK(TestWorld().GatherText("").status());
      best = std::min(best, MillisecondsOf(work));
    }
    return best;
  }
  std::unique_ptr<World> world_;
  std::unique_ptr<ProcessGroup> group_;
  int size_;
};

TEST_F(SlowLink, TakesThePredictedTime) {
  SKIP_UNDER_SANITIZERS("bounds a time to 20 %");
  if (size_ == 1) GTEST_SKIP() << "no link in a group of one";
  const Stream stream = MakeStream(StreamMode::kInline);
  const int64_t count = 60'000;  // fp32 elements per rank
  const Tensor whole = kernels::RandomTensor(DType::kFloat32, {count * size_}, "w");
  const Tensor part = MakeTensor(DType::kFloat32, {count});
  const auto near = [](double found, double expected) {
    EXPECT_GE(found, expected * 0.99);
    EXPECT_LE(found, expected * 1.2);
  };
  const double pair_ms = ExpectedMs(1, count * 4);
  const double one_way = ExpectedMs(size_ - 1, (size_ - 1) * count * 4);
  near(BestMs([&] {
         EXPECT_TRUE(
             ReduceScatter(whole.view(), part.view(), ReduceOp::kSum, *group_, stream.view()).ok());
       }),
       one_way);
  near(BestMs(
           [&] { EXPECT_TRUE(AllGather(part.view(), whole.view(), *group_, stream.view()).ok()); }),
       one_way);
  near(BestMs([&] {
         EXPECT_TRUE(AllReduce(whole.view(), ReduceOp::kMax, *group_, stream.view()).ok());
       }),
       2 * one_way);
  const double found_ms = BestMs([&] {
    if (world_->rank() == 0) {
      EXPECT_TRUE(Send(part.view(), 1, *group_, stream.view()).ok());
    } else if (world_->rank() == 1) {
      EXPECT_TRUE(Receive(part.view(), 0, *group_, stream.view()).ok());
    } else {
      std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(pair_ms));
    }
  });
  // A receiver that comes later than the sender waits for less than the message takes.
  if (world_->rank() != 1) EXPECT_GE(found_ms, pair_ms * 0.99);
  EXPECT_LE(found_ms, pair_ms * 1.2);
}

TEST_F(SlowLink, IsBookedUnderTheGroupsCategory) {
  if (size_ == 1) GTEST_SKIP() << "no link in a group of one";
  const Stream stream = MakeStream(StreamMode::kInline);
  const auto timeline = kernels::Timeline::Create(stream.view(), kNumTimeCategories);
  ASSERT_TRUE(timeline.ok());
  const Tensor part = MakeTensor(DType::kFloat32, {30'000});
  const Tensor whole = MakeTensor(DType::kFloat32, {30'000 * size_});
  ASSERT_TRUE(AllGather(part.view(), whole.view(), *group_, stream.view()).ok());
  const auto times = (*timeline)->Collect();
  ASSERT_TRUE(times.ok());
  const double exposed_ms = static_cast<double>((*times)[kExposedDp]) * 1e-6;
  EXPECT_GE(exposed_ms, ExpectedMs(size_ - 1, (size_ - 1) * 120'000) * 0.99);
  EXPECT_LT((*times)[kCompute], (*times)[kExposedDp] / 10);
}

// The thread of a queue stream waits for the link while the host computes.
TEST_F(SlowLink, IsHiddenBehindHostComputeOnAQueueStream) {
  if (size_ == 1) GTEST_SKIP() << "no link in a group of one";
  const Stream comm = MakeStream(StreamMode::kQueue);
  const Tensor data = kernels::RandomTensor(DType::kFloat32, {40'000 * size_}, "w");
  const double collective_ms = 2 * ExpectedMs(size_ - 1, (size_ - 1) * 160'000);
  const double compute_ms = collective_ms * 0.8;
  const auto compute = [&] {  // host work of known length that lets the other ranks run
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(compute_ms));
  };
  const double together_ms = BestMs([&] {
    EXPECT_TRUE(AllReduce(data.view(), ReduceOp::kSum, *group_, comm.view()).ok());
    compute();
    EXPECT_TRUE(comm.view().Synchronize().ok());
  });
  EXPECT_GE(together_ms, collective_ms * 0.99);
  EXPECT_LE(together_ms, collective_ms + 0.25 * compute_ms) << "of " << compute_ms << " computing";
}

}  // namespace
}  // namespace muster::parallel
