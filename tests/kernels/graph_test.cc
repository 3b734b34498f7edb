#include "kernels/device/graph.h"

#include <gtest/gtest.h>

#include "kernels/ops/reduce.h"
#include "tests/support/kernels/host_tensor.h"
#include "tests/support/kernels/on_cuda.h"

namespace muster::kernels {
namespace {

struct Case {
  const char* name;
  Device device;
  StreamMode mode;
};

class GraphOn : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Device device = GetParam().device;
    if (DeviceCount(device.type) == 0) GTEST_SKIP() << "wants a GPU";
    auto stream = Stream::Create(device, GetParam().mode, "recorded");
    MUSTER_CHECK_OK(stream.status());
    stream_ = std::make_unique<Stream>(*std::move(stream));
  }
  StreamView stream() const { return stream_->view(); }
  Tensor OnDevice(std::vector<double> values) const {
    const Tensor host = TensorOf(DType::kFloat32, {static_cast<int64_t>(values.size())}, values);
    auto tensor = Tensor::Allocate(DType::kFloat32, host.view().shape, GetParam().device);
    MUSTER_CHECK_OK(tensor.status());
    CopyAsync(tensor->view(), host.view(), stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return *std::move(tensor);
  }
  std::vector<double> ValuesOf(const Tensor& tensor) const {
    const Tensor host = MakeTensor(DType::kFloat32, tensor.view().shape);
    CopyAsync(host.view(), tensor.view(), stream());
    MUSTER_CHECK_OK(stream().Synchronize());
    return Values(host.view());
  }

 private:
  std::unique_ptr<Stream> stream_;
};

TEST_P(GraphOn, RunsWhatWasRecordedAsOftenAsItIsLaunched) {
  const Tensor x = OnDevice({1, 2, 3}), sum = OnDevice({0, 0, 0}), copy = OnDevice({9, 9, 9});
  ASSERT_TRUE(Graph::Begin(stream()).ok());
  EXPECT_TRUE(stream().records());
  Add({.a = sum.view(), .b = x.view(), .out = sum.view()}, stream());
  CopyAsync(copy.view(), sum.view(), stream());
  auto graph = Graph::End(stream());
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_FALSE(stream().records());
  EXPECT_EQ(ValuesOf(sum), (std::vector<double>{0, 0, 0})) << "recording ran the work";
  for (int launch = 1; launch <= 3; ++launch) {
    graph->Launch(stream());
    const double n = launch;
    EXPECT_EQ(ValuesOf(sum), (std::vector<double>{n, 2 * n, 3 * n}));
    EXPECT_EQ(ValuesOf(copy), ValuesOf(sum));
  }
}

TEST_P(GraphOn, LaunchesInTheOrderOfTheStream) {
  const Tensor x = OnDevice({1}), sum = OnDevice({0}), before = OnDevice({0});
  ASSERT_TRUE(Graph::Begin(stream()).ok());
  Add({.a = sum.view(), .b = x.view(), .out = sum.view()}, stream());
  auto graph = Graph::End(stream());
  ASSERT_TRUE(graph.ok()) << graph.status();
  graph->Launch(stream());
  CopyAsync(before.view(), sum.view(), stream());
  graph->Launch(stream());
  EXPECT_EQ(ValuesOf(before), std::vector<double>{1});
  EXPECT_EQ(ValuesOf(sum), std::vector<double>{2});
}

TEST_P(GraphOn, OfNoWorkDoesNothing) {
  ASSERT_TRUE(Graph::Begin(stream()).ok());
  auto graph = Graph::End(stream());
  ASSERT_TRUE(graph.ok()) << graph.status();
  graph->Launch(stream());
  Graph().Launch(stream());
  EXPECT_TRUE(stream().Synchronize().ok());
}

TEST_P(GraphOn, RefusesEventsAndTheStreamGoesOn) {
  auto event = Event::Create(GetParam().device);
  ASSERT_TRUE(event.ok());
  for (const bool records : {true, false}) {
    ASSERT_TRUE(Graph::Begin(stream()).ok());
    if (records) {
      stream().Record(event->view());
    } else {
      stream().Wait(event->view());
    }
    const auto graph = Graph::End(stream());
    ASSERT_TRUE(absl::IsFailedPrecondition(graph.status())) << graph.status();
    EXPECT_NE(graph.status().message().find(records ? "record" : "wait"), std::string::npos);
  }
  const Tensor x = OnDevice({1}), sum = OnDevice({0});
  Add({.a = sum.view(), .b = x.view(), .out = sum.view()}, stream());
  EXPECT_EQ(ValuesOf(sum), std::vector<double>{1});
  EXPECT_TRUE(stream().Synchronize().ok()) << "a refused recording fails itself, not the stream";
}

INSTANTIATE_TEST_SUITE_P(Streams, GraphOn,
                         testing::Values(Case{"CpuInline", {}, StreamMode::kInline},
                                         Case{"CpuQueue", {}, StreamMode::kQueue},
                                         Case{"Cuda", {DeviceType::kCuda, 0}, StreamMode::kQueue}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace muster::kernels
