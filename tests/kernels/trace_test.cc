#include "kernels/device/trace.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/device/span.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/matmul.h"
#include "kernels/ops/op_work.h"
#include "tests/support/kernels/host_tensor.h"

namespace muster::kernels {
namespace {

Stream MakeStream(StreamMode mode) {
  auto stream = Stream::Create({}, mode, "traced");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}

std::unique_ptr<Trace> StartTrace(std::vector<Trace::Row> rows, int max_intervals = 64) {
  auto trace = Trace::Start(std::move(rows), max_intervals);
  MUSTER_CHECK_OK(trace.status());
  return *std::move(trace);
}

std::vector<Trace::Interval> Stop(Trace& trace) {
  auto intervals = trace.Stop();
  MUSTER_CHECK_OK(intervals.status());
  return *std::move(intervals);
}

TEST(Trace, OperatorsLieInsideTheSpanAroundThemInTheirOrder) {
  for (const StreamMode mode : {StreamMode::kInline, StreamMode::kQueue}) {
    const Stream stream = MakeStream(mode);
    const Tensor x = RandomTensor(DType::kFloat32, {64, 64}, "x");
    const Tensor y = MakeTensor(DType::kFloat32, {64, 64});
    const auto trace = StartTrace({{stream.view(), "compute"}});
    const int64_t before = MonotonicNs();
    {
      const Span span(stream.view(), "both", 0);
      Matmul({.a = x.view(), .b = x.view(), .c = y.view()}, stream.view());
      Fill({.x = y.view(), .value = 1}, stream.view());
    }
    const std::vector<Trace::Interval> intervals = Stop(*trace);
    const int64_t after = MonotonicNs();
    ASSERT_EQ(intervals.size(), 3u);
    EXPECT_EQ(intervals[0].name, "both");
    EXPECT_EQ(intervals[1].name, "Matmul");
    EXPECT_EQ(intervals[2].name, "Fill");
    EXPECT_EQ(intervals[0].depth, 0);
    EXPECT_EQ(intervals[1].depth, 1);
    EXPECT_EQ(intervals[2].depth, 1);
    EXPECT_EQ(intervals[1].work.flops, 2.0 * 64 * 64 * 64);
    EXPECT_EQ(intervals[1].work.bytes, 3.0 * 64 * 64 * 4);
    EXPECT_EQ(intervals[1].work.detail, "64 x 64 x 64 NN");
    EXPECT_LE(before, intervals[0].begin_ns);
    EXPECT_LE(intervals[0].begin_ns, intervals[1].begin_ns);
    EXPECT_LT(intervals[1].begin_ns, intervals[1].end_ns);
    EXPECT_LE(intervals[1].end_ns, intervals[2].begin_ns);
    EXPECT_LE(intervals[2].end_ns, intervals[0].end_ns);
    EXPECT_LE(intervals[0].end_ns, after);
  }
}

TEST(Trace, KeepsStreamsApartAndEndsWithStop) {
  const Stream first = MakeStream(StreamMode::kQueue), second = MakeStream(StreamMode::kQueue);
  const Tensor x = MakeTensor(DType::kFloat32, {8});
  const auto trace = StartTrace({{first.view(), "first"}, {second.view(), "second"}});
  Fill({.x = x.view(), .value = 1}, second.view());
  Fill({.x = x.view(), .value = 2}, first.view());
  const std::vector<Trace::Interval> intervals = Stop(*trace);
  ASSERT_EQ(intervals.size(), 2u);
  EXPECT_EQ(intervals[0].row, 1);
  EXPECT_EQ(intervals[1].row, 0);
  EXPECT_EQ(first.view().trace(), nullptr);
  EXPECT_EQ(second.view().trace(), nullptr);
}

TEST(Trace, DropsAndCountsWhatDoesNotFit) {
  const Stream stream = MakeStream(StreamMode::kInline);
  const Tensor x = MakeTensor(DType::kFloat32, {8});
  const auto trace = StartTrace({{stream.view(), "compute"}}, 2);
  for (int i = 0; i < 5; ++i) Fill({.x = x.view(), .value = 1}, stream.view());
  EXPECT_EQ(Stop(*trace).size(), 2u);
  EXPECT_EQ(trace->dropped(), 3);
}

TEST(OpWork, CountsCausalAttentionHalfAndAbsentTensorsNot) {
  const Tensor q = MakeTensor(DType::kBFloat16, {2, 16, 4, 8});
  const Tensor k = MakeTensor(DType::kBFloat16, {2, 16, 2, 8});
  AttentionForwardArgs args = {.q = q.view(), .k = k.view(), .v = k.view(), .out = q.view()};
  args.causal = false;
  const double full = 2 * 2.0 * 2 * 16 * 16 * 4 * 8;
  EXPECT_EQ(WorkOf(args).flops, full);
  args.causal = true;
  EXPECT_EQ(WorkOf(args).flops, full / 2);
  EXPECT_EQ(WorkOf(args).bytes, 2.0 * (2 * 1024 + 2 * 512));
  const Tensor v = MakeTensor(DType::kBFloat16, {2, 16, 2, 4});
  const Tensor out = MakeTensor(DType::kBFloat16, {2, 16, 4, 4});
  args.v = v.view();
  args.out = out.view();
  EXPECT_EQ(WorkOf(args).flops, full / 4 + full / 8);
  EXPECT_EQ(WorkOf(args).detail, "b2 s16 h4/2 d8/4 causal");
  const AttentionBackwardArgs backward = {
      .q = q.view(), .k = k.view(), .v = v.view(), .out = out.view()};
  EXPECT_EQ(WorkOf(backward).flops, 3 * full / 4 + 2 * full / 8);
  const Tensor x = MakeTensor(DType::kFloat32, {4, 8});
  EXPECT_EQ(WorkOf(RmsNormForwardArgs{.x = x.view(), .y = x.view()}).bytes, 2.0 * 4 * 8 * 4);
}

}  // namespace
}  // namespace muster::kernels
