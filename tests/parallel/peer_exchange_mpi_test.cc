// Memory and flags that processes share between GPUs, without NCCL: so that ranks may also share
// one GPU, and one GPU is enough for the test. Wants a GPU.
#include <gtest/gtest.h>

#include "kernels/device/span.h"
#include "parallel/comm/peer_exchange.h"
#include "parallel/comm/rank_order_reduce.h"
#include "tests/support/kernels/host_tensor.h"
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

constexpr int64_t kElements = 1 << 20;

class PeerExchangeOnGpus : public testing::Test {
 protected:
  void SetUp() override {
    const int devices = kernels::DeviceCount(DeviceType::kCuda);
    if (devices == 0) GTEST_SKIP() << "wants a GPU";
    if (TestWorld().size() == 1) GTEST_SKIP() << "a group of one copies to nobody";
    device_ = {DeviceType::kCuda, TestWorld().rank() % devices};
    auto stream = Stream::Create(device_, StreamMode::kQueue, "comm");
    MUSTER_CHECK_OK(stream.status());
    stream_ = std::make_unique<Stream>(*std::move(stream));
    auto memory = Tensor::Allocate(DType::kFloat32, {2 * kElements}, device_);
    MUSTER_CHECK_OK(memory.status());
    memory_ = *std::move(memory);
  }
  void TearDown() override {
    // Nobody frees what another rank still has mapped.
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
    exchange_.reset();
    MUSTER_CHECK_OK(TestWorld().GatherText("").status());
  }
  PeerExchange::Options OptionsOf(const std::string& host) {
    return {.group = "peers",
            .host = host,
            .rank = TestWorld().rank(),
            .size = TestWorld().size(),
            .device = device_,
            .memory = {.staging = memory_.view().Slice(0, 0, kElements), .targets = {target()}},
            .gather = [](const std::string& text) { return TestWorld().GatherText(text); }};
  }
  kernels::TensorView target() const { return memory_.view().Slice(0, kElements, 2 * kElements); }
  kernels::StreamView stream() const { return stream_->view(); }
  Tensor OnHost(const kernels::TensorView& view) const {
    Tensor host = kernels::MakeTensor(view.dtype, view.shape);
    kernels::CopyAsync(host.view(), view, stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return host;
  }

  Device device_;
  std::unique_ptr<Stream> stream_;
  Tensor memory_;
  std::unique_ptr<PeerExchange> exchange_;
};

TEST_F(PeerExchangeOnGpus, SumsAndGathersAsRankOrderDoesToTheBit) {
  auto exchange = PeerExchange::Create(OptionsOf("here"));
  ASSERT_TRUE(exchange.ok()) << exchange.status();
  exchange_ = *std::move(exchange);
  const int size = TestWorld().size(), rank = TestWorld().rank();
  for (int call = 0; call < 24; ++call) {
    const int64_t part = (int64_t{1} << (call % 17)) + (call % 3);
    const auto input = [&](int of) {
      return RandomTensor(DType::kFloat32, {size * part},
                          std::to_string(of) + " " + std::to_string(call));
    };
    // In the memory that holds the target too, so as not to take any for each call.
    const kernels::TensorView in = target().Slice(0, 0, size * part);
    kernels::CopyAsync(in, input(rank).view(), stream());
    const kernels::TensorView own = in.Slice(0, rank * part, (rank + 1) * part);
    ASSERT_TRUE(exchange_->copies().ReduceScatter(in, own, stream()).ok());
    std::vector<Tensor> inputs, sums;
    std::vector<const void*> sources;
    for (int peer = 0; peer < size; ++peer) inputs.push_back(input(peer));
    std::vector<double> expected;
    for (int peer = 0; peer < size; ++peer) {
      sources.clear();
      for (const Tensor& theirs : inputs) {
        sources.push_back(theirs.view().Slice(0, peer * part, (peer + 1) * part).data);
      }
      sums.push_back(kernels::MakeTensor(DType::kFloat32, {part}));
      ReduceInRankOrder(DType::kFloat32, ReduceOp::kSum, sources.data(), size,
                        sums.back().view().data, part);
      const auto values = Values(sums.back().view());
      expected.insert(expected.end(), values.begin(), values.end());
    }
    EXPECT_EQ(Values(OnHost(own).view()), Values(sums[static_cast<size_t>(rank)].view()))
        << "sum of call " << call;
    ASSERT_TRUE(TestWorld().GatherText("").ok());  // all have read their sums
    ASSERT_TRUE(exchange_->copies().AllGather(own, in, stream()).ok());
    EXPECT_EQ(Values(OnHost(in).view()), expected) << "gather of call " << call;
    ASSERT_TRUE(TestWorld().GatherText("").ok());
  }
}

TEST_F(PeerExchangeOnGpus, ReleaseLetsAStreamGoOnWhosePeerDoesNotCome) {
  auto exchange = PeerExchange::Create(OptionsOf("here"));
  ASSERT_TRUE(exchange.ok()) << exchange.status();
  exchange_ = *std::move(exchange);
  if (TestWorld().rank() != 0) return;  // TearDown waits for rank 0
  ASSERT_TRUE(exchange_->copies()
                  .AllGather(target().Slice(0, 0, 8), target().Slice(0, 0, 8 * TestWorld().size()),
                             stream())
                  .ok());
  auto event = kernels::Event::Create(device_);
  ASSERT_TRUE(event.ok());
  const int64_t begin = kernels::MonotonicNs();
  exchange_->copies().Release();
  EXPECT_TRUE(stream().Synchronize().ok());
  EXPECT_LT(static_cast<double>(kernels::MonotonicNs() - begin) * 1e-9, 5);
}

TEST_F(PeerExchangeOnGpus, RefusesRanksOfTwoHosts) {
  const auto exchange =
      PeerExchange::Create(OptionsOf(TestWorld().rank() == 0 ? "one" : "another"));
  ASSERT_TRUE(absl::IsFailedPrecondition(exchange.status())) << exchange.status();
  EXPECT_NE(exchange.status().message().find("two hosts"), std::string::npos) << exchange.status();
}

TEST_F(PeerExchangeOnGpus, RefusesMemoryThatDoesNotAgree) {
  PeerExchange::Options options = OptionsOf("here");
  if (TestWorld().rank() == 1) options.memory.targets.clear();
  const auto exchange = PeerExchange::Create(std::move(options));
  ASSERT_TRUE(absl::IsFailedPrecondition(exchange.status())) << exchange.status();
  EXPECT_NE(exchange.status().message().find("targets of gathers"), std::string::npos)
      << exchange.status();
}

}  // namespace
}  // namespace muster::parallel
