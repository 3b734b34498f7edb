// What groups on GPUs do beyond the contract in collectives_mpi_test.cc: deadlines, NCCL's own
// sums, maxima with NaN, refusals. All but the refusals want a GPU for each rank.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <limits>
#include <thread>

#include "kernels/device/span.h"
#include "parallel/comm/collectives.h"
#include "parallel/comm/rank_order_reduce.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/kernels/tolerance.h"
#include "tests/support/mpi_main.h"

namespace muster::parallel {
namespace {

using kernels::Device;
using kernels::DeviceType;
using kernels::DType;
using kernels::RandomTensor;
using kernels::Stream;
using kernels::StreamMode;
using kernels::Tensor;
using kernels::Values;
using std::chrono::milliseconds;

std::unique_ptr<World> MakeWorld(const WorldOptions& options) {
  auto world = World::Create(options);
  MUSTER_CHECK_OK(world.status());
  return *std::move(world);
}

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpus()) GTEST_SKIP() << "wants a GPU for each rank";
    if (TestWorld().size() == 1) GTEST_SKIP() << "a group of one calls nobody";
    auto stream = Stream::Create(TestGpu(), StreamMode::kQueue, "comm");
    MUSTER_CHECK_OK(stream.status());
    stream_ = std::make_unique<Stream>(*std::move(stream));
  }
  StreamView stream() const { return stream_->view(); }
  Tensor OnGpu(const Tensor& host) const {
    auto tensor = Tensor::Allocate(host.view().dtype, host.view().shape, TestGpu());
    MUSTER_CHECK_OK(tensor.status());
    kernels::CopyAsync(tensor->view(), host.view(), stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return *std::move(tensor);
  }
  Tensor OnHost(const Tensor& tensor) const {
    Tensor host = kernels::MakeTensor(tensor.view().dtype, tensor.view().shape);
    kernels::CopyAsync(host.view(), tensor.view(), stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return host;
  }

 private:
  std::unique_ptr<Stream> stream_;
};

TEST_F(Nccl, SumsAreCloseInWhateverOrderAndRepeatToTheBit) {
  const auto world = MakeWorld({.nccl = {.overlapped_max_ctas = 4}});
  const auto group = GroupOfAll(*world, "sums", TestGpu());
  const int64_t count = 100'003;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    std::vector<double> expected(static_cast<size_t>(count));
    for (int rank = 0; rank < group->size(); ++rank) {
      const auto theirs = Values(RandomTensor(dtype, {count}, std::to_string(rank)).view());
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += theirs[i];
    }
    std::vector<double> first;
    for (int run = 0; run < 3; ++run) {
      const Tensor data = OnGpu(RandomTensor(dtype, {count}, std::to_string(group->rank())));
      ASSERT_TRUE(AllReduce(data.view(), ReduceOp::kSum, *group, stream()).ok());
      const Tensor sum = OnHost(data);
      EXPECT_TRUE(kernels::IsClose(sum.view(), expected));
      if (run == 0) first = Values(sum.view());
      EXPECT_EQ(Values(sum.view()), first) << "run " << run;
    }
  }
}

TEST_F(Nccl, KeepsNotANumberInMax) {
  const auto group = GroupOfAll(TestWorld(), "max", TestGpu());
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    for (int poisoned = 0; poisoned < group->size(); ++poisoned) {
      const Tensor host = RandomTensor(dtype, {3}, "x");
      if (group->rank() == poisoned) {
        kernels::SetValue(host.view(), 1, std::numeric_limits<double>::quiet_NaN());
      }
      const Tensor data = OnGpu(host);
      ASSERT_TRUE(AllReduce(data.view(), ReduceOp::kMax, *group, stream()).ok());
      const std::vector<double> result = Values(OnHost(data).view());
      EXPECT_EQ(result[0], Values(host.view())[0]);
      EXPECT_NE(result[1], result[1]) << "NaN of rank " << poisoned << " got lost";
    }
  }
}

TEST_F(Nccl, LogSaysWhenCallsAreDone) {
  const auto world = MakeWorld({});
  const auto group = GroupOfAll(*world, "logged", TestGpu());
  ASSERT_TRUE(Barrier(*group, stream()).ok());
  ASSERT_TRUE(stream().Synchronize().ok());
  const auto state = [&] { return world->log().Entries().back().state; };
  for (int ms = 0; ms < 5000 && state() != CollectiveEntry::State::kDone; ++ms) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(state(), CollectiveEntry::State::kDone);
}

TEST_F(Nccl, BarrierHoldsEveryRankUntilTheLastOneComes) {
  const auto group = GroupOfAll(TestWorld(), "barrier", TestGpu());
  const auto now_us = [] { return kernels::MonotonicNs() / 1000; };
  ASSERT_TRUE(TestWorld().GatherText("").ok());
  std::this_thread::sleep_for(milliseconds(20 * group->rank()));
  const int64_t came = now_us();
  ASSERT_TRUE(Barrier(*group, stream()).ok());
  ASSERT_TRUE(stream().Synchronize().ok());
  const int64_t left = now_us();
  const auto all_came = TestWorld().GatherText(std::to_string(came));
  ASSERT_TRUE(all_came.ok());
  for (const std::string& time : *all_came) EXPECT_LE(std::stoll(time), left);
}

// The others find the error in their stream, soon after the deadline; two groups hang at once, so
// that one abort must not wait for the other.
TEST_F(Nccl, DeadlineFailsOnTheOthersWhenARankSkipsACollective) {
  {
    const auto world = MakeWorld({.deadline = milliseconds(500)});
    const auto group = GroupOfAll(*world, "short", TestGpu());
    const auto other = GroupOfAll(*world, "other", TestGpu());
    auto second = Stream::Create(TestGpu(), StreamMode::kQueue, "other");
    ASSERT_TRUE(second.ok());
    const int absent = world->size() - 1;
    const Tensor data = OnGpu(RandomTensor(DType::kFloat32, {600'001}, "x"));
    ASSERT_TRUE(AllReduce(data.view(), ReduceOp::kSum, *group, stream()).ok());
    ASSERT_TRUE(stream().Synchronize().ok());
    ASSERT_TRUE(TestWorld().GatherText("").ok());
    if (world->rank() != absent) {
      const int64_t begin = kernels::MonotonicNs();
      ASSERT_TRUE(AllReduce(data.view(), ReduceOp::kSum, *group, stream()).ok());
      ASSERT_TRUE(Barrier(*other, second->view()).ok());
      const absl::Status status = stream().Synchronize();
      const double ms = static_cast<double>(kernels::MonotonicNs() - begin) * 1e-6;
      ASSERT_TRUE(absl::IsDeadlineExceeded(status)) << status.ToString();
      EXPECT_GE(ms, 500);
      EXPECT_LT(ms, 5000);
      const std::string text(status.message());
      for (const std::string& part :
           {std::string("all_reduce #1 of group short, 2400004 bytes"),
            std::string("from tests/parallel/nccl_mpi_test.cc:"),
            "failed on world rank " + std::to_string(world->rank()),
            std::string("not done within 500 ms"), std::string("pending: all_reduce #1")}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << "\nnot in\n" << text;
      }
      EXPECT_EQ(Barrier(*group, stream()), status) << "a broken group gives its first error";
      EXPECT_TRUE(absl::IsDeadlineExceeded(second->view().Synchronize()));
      EXPECT_EQ(world->log().Entries()[1].state, CollectiveEntry::State::kFailed);
    } else {
      std::this_thread::sleep_for(milliseconds(2500));  // alive, but elsewhere
    }
  }
  // The GPU and NCCL live on: groups of another world work.
  ASSERT_TRUE(TestWorld().GatherText("").ok());
  const auto healthy = GroupOfAll(TestWorld(), "healthy", TestGpu());
  auto fresh = Stream::Create(TestGpu(), StreamMode::kQueue, "fresh");
  ASSERT_TRUE(fresh.ok());
  ASSERT_TRUE(Barrier(*healthy, fresh->view()).ok());
  ASSERT_TRUE(fresh->view().Synchronize().ok());
}

// A group whose buckets are moved by copy engines, with memory for it.
class CopyEngines : public Nccl {
 protected:
  static constexpr int64_t kElements = 3'000'000;
  void SetUp() override {
    Nccl::SetUp();
    if (IsSkipped()) return;
    world_ = MakeWorld(
        {.deadline = milliseconds(1500), .nccl = {.cta_policy = NcclOptions::CtaPolicy::kZero}});
    std::vector<int> ranks;
    for (int rank = 0; rank < world_->size(); ++rank) ranks.push_back(rank);
    auto group = world_->NewGroup("copied", ranks, kExposedDp, TestGpu());
    MUSTER_CHECK_OK(group.status());
    group_ = *std::move(group);
    auto memory = Tensor::Allocate(DType::kFloat32, {2 * kElements}, TestGpu());
    MUSTER_CHECK_OK(memory.status());
    memory_ = *std::move(memory);
    target_ = memory_.view().Slice(0, kElements, 2 * kElements);
    MUSTER_CHECK_OK(UseCopyEngines(
        {.staging = memory_.view().Slice(0, 0, kElements), .targets = {target_}}, *group_));
  }
  std::unique_ptr<World> world_;
  std::unique_ptr<ProcessGroup> group_;
  Tensor memory_;
  TensorView target_;
};

// Calls run ahead of the host, of lengths that are and are not whole vectors.
TEST_F(CopyEngines, SumAndGatherAsRankOrderDoesToTheBit) {
  const int size = group_->size(), rank = group_->rank();
  const auto input = [&](int of, int call, DType dtype, int64_t part) {
    return RandomTensor(dtype, {size * part}, std::to_string(of) + " " + std::to_string(call));
  };
  const auto type = [](int call) { return call % 3 == 0 ? DType::kBFloat16 : DType::kFloat32; };
  const auto part_of = [&](int call) {
    return (int64_t{1} << (call % 19)) + (call % 2 == 0 ? 0 : call);
  };
  constexpr int kCalls = 38;
  std::vector<Tensor> inputs;
  for (int call = 0; call < kCalls; ++call) {
    inputs.push_back(OnGpu(input(rank, call, type(call), part_of(call))));
  }
  std::vector<TensorView> sums;
  for (int call = 0; call < kCalls; ++call) {
    const int64_t part = part_of(call);
    const TensorView in = inputs[static_cast<size_t>(call)].view();
    sums.push_back(in.Slice(0, rank * part, (rank + 1) * part));
    ASSERT_TRUE(ReduceScatter(in, sums.back(), ReduceOp::kSum, *group_, stream()).ok());
  }
  ASSERT_TRUE(stream().Synchronize().ok());
  for (int call = 0; call < kCalls; ++call) {
    const int64_t part = part_of(call);
    std::vector<Tensor> theirs;
    std::vector<const void*> sources;
    for (int peer = 0; peer < size; ++peer) {
      theirs.push_back(input(peer, call, type(call), part));
      sources.push_back(theirs.back().view().Slice(0, rank * part, (rank + 1) * part).data);
    }
    const Tensor expected = kernels::MakeTensor(type(call), {part});
    ReduceInRankOrder(type(call), ReduceOp::kSum, sources.data(), size, expected.view().data, part);
    const Tensor sum = kernels::MakeTensor(type(call), {part});
    kernels::CopyAsync(sum.view(), sums[static_cast<size_t>(call)], stream());
    ASSERT_TRUE(stream().Synchronize().ok());
    EXPECT_EQ(Values(sum.view()), Values(expected.view())) << "call " << call << ", part " << part;
  }

  for (int call = 0; call < kCalls; ++call) {
    const int64_t part = part_of(call);
    const TensorView out = target_.Slice(0, call, call + size * part);
    const TensorView own = out.Slice(0, rank * part, (rank + 1) * part);
    kernels::CopyAsync(own, input(rank, call, DType::kFloat32, part).view().Slice(0, 0, part),
                       stream());
    ASSERT_TRUE(AllGather(own, out, *group_, stream()).ok());
    const Tensor all = kernels::MakeTensor(DType::kFloat32, {size * part});
    kernels::CopyAsync(all.view(), out, stream());
    ASSERT_TRUE(stream().Synchronize().ok());
    for (int peer = 0; peer < size; ++peer) {
      EXPECT_EQ(Values(all.view().Slice(0, peer * part, (peer + 1) * part)),
                Values(input(peer, call, DType::kFloat32, part).view().Slice(0, 0, part)))
          << "call " << call << " of rank " << peer;
    }
    ASSERT_TRUE(Barrier(*group_, stream()).ok());  // nobody overwrites what is still compared
  }
}

// A stream cannot be told by NCCL's abort that its peer does not come; the flags are.
TEST_F(CopyEngines, DeadlineFailsOnTheOthersWhenARankSkipsACollective) {
  const TensorView own = target_.Slice(0, group_->rank() * 1000, (group_->rank() + 1) * 1000);
  const TensorView out = target_.Slice(0, 0, group_->size() * 1000);
  ASSERT_TRUE(AllGather(own, out, *group_, stream()).ok());
  ASSERT_TRUE(stream().Synchronize().ok());
  ASSERT_TRUE(TestWorld().GatherText("").ok());
  if (group_->rank() == group_->size() - 1) {
    std::this_thread::sleep_for(milliseconds(3500));  // alive, but elsewhere
  } else {
    const int64_t begin = kernels::MonotonicNs();
    ASSERT_TRUE(AllGather(own, out, *group_, stream()).ok());
    const absl::Status status = stream().Synchronize();
    const double ms = static_cast<double>(kernels::MonotonicNs() - begin) * 1e-6;
    ASSERT_TRUE(absl::IsDeadlineExceeded(status)) << status.ToString();
    EXPECT_NE(status.message().find("all_gather #1 of group copied"), std::string::npos)
        << status.ToString();
    EXPECT_GE(ms, 1500);
    EXPECT_LT(ms, 6000);
  }
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

TEST_F(Nccl, WaitingForOwnComputeIsNotHeldAgainstACall) {
  const auto world = MakeWorld({.deadline = milliseconds(300)});
  const auto group = GroupOfAll(*world, "late", TestGpu());
  stream().Enqueue([] { std::this_thread::sleep_for(milliseconds(900)); });
  ASSERT_TRUE(Barrier(*group, stream()).ok());
  const absl::Status status = stream().Synchronize();
  EXPECT_TRUE(status.ok()) << status.ToString();
}

TEST_F(Nccl, AllToAllRefusesCountsThatDoNotFit) {
  const auto world = MakeWorld({.deadline = milliseconds(2000)});
  const auto group = GroupOfAll(*world, "counts", TestGpu());
  const int size = group->size();
  const Tensor in = OnGpu(RandomTensor(DType::kFloat32, {size, 2}, "in"));
  const Tensor out = OnGpu(RandomTensor(DType::kFloat32, {size, 2}, "out"));
  const Tensor counts = OnGpu(
      kernels::TensorOf(DType::kInt64, {size}, std::vector<double>(static_cast<size_t>(size), 2)));
  const absl::Status status =
      AllToAll(in.view(), out.view(), counts.view(), counts.view(), *group, stream());
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status.ToString();
  EXPECT_NE(status.message().find("send_counts["), std::string::npos) << status.ToString();
  EXPECT_EQ(stream().Synchronize(), status);
}

TEST_F(Nccl, RefusesMulticastInTheEnvironment) {
  const auto world = MakeWorld({});
  std::vector<int> ranks;
  for (int rank = 0; rank < world->size(); ++rank) ranks.push_back(rank);
  const char* before = std::getenv("NCCL_NVLS_ENABLE");
  const std::string restored = before != nullptr ? before : "0";
  setenv("NCCL_NVLS_ENABLE", "1", /*overwrite=*/1);
  const auto group = world->NewGroup("dp", ranks, kExposedDp, TestGpu());
  setenv("NCCL_NVLS_ENABLE", restored.c_str(), /*overwrite=*/1);
  ASSERT_TRUE(absl::IsFailedPrecondition(group.status())) << group.status().ToString();
  EXPECT_NE(group.status().message().find("NCCL_NVLS_ENABLE=1"), std::string::npos);
}

// In a build without CUDA no GPU is there either.
TEST(NewGroup, SaysThatAGpuIsNotThere) {
  const int size = TestWorld().size();
  if (size == 1) GTEST_SKIP() << "a group of one needs no backend";
  const auto world = MakeWorld({});
  std::vector<int> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(rank);
  const auto group = world->NewGroup("dp", ranks, kExposedDp, Device{DeviceType::kCuda, 99});
  ASSERT_TRUE(absl::IsFailedPrecondition(group.status())) << group.status().ToString();
  EXPECT_NE(group.status().message().find("cuda:99"), std::string::npos)
      << group.status().ToString();
  ASSERT_TRUE(TestWorld().GatherText("").ok());
}

}  // namespace
}  // namespace muster::parallel
