#include "kernels/device/span.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <numeric>
#include <thread>

#include "kernels/base/error.h"

namespace muster::kernels {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int kOther = 0, kMatmul = 1, kWait = 2;

Stream MakeStream(StreamMode mode) {
  auto stream = Stream::Create({}, mode, "test");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}
std::unique_ptr<Timeline> MakeTimeline(const Stream& stream, int max_marks = 1 << 14) {
  auto timeline = Timeline::Create(stream.view(), 3, max_marks);
  MUSTER_CHECK_OK(timeline.status());
  return *std::move(timeline);
}
std::vector<int64_t> Collect(Timeline& timeline) {
  auto sums = timeline.Collect();
  MUSTER_CHECK_OK(sums.status());
  return *std::move(sums);
}
int64_t Total(const std::vector<int64_t>& sums) {
  return std::accumulate(sums.begin(), sums.end(), int64_t{0});
}
void Work(StreamView stream, int64_t milliseconds) {
  stream.Enqueue([=] { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); });
}

class TimelineOf : public ::testing::TestWithParam<StreamMode> {};
INSTANTIATE_TEST_SUITE_P(, TimelineOf, ::testing::Values(StreamMode::kInline, StreamMode::kQueue),
                         [](const auto& info) {
                           return info.param == StreamMode::kInline ? "inline" : "queue";
                         });

TEST_P(TimelineOf, TilesTheStreamsTimeWithoutGaps) {
  const Stream stream = MakeStream(GetParam());
  const int64_t before = MonotonicNs();
  const auto timeline = MakeTimeline(stream);
  ASSERT_TRUE(stream.view().Synchronize().ok());
  const int64_t started = MonotonicNs();
  int64_t total = 0;
  // A gap at any of the many marks and collects would add up beyond the two ends' uncertainty.
  int64_t last_collect = 0;
  for (int i = 0; i < 200; ++i) {
    for (int category : {kMatmul, kWait, kOther}) timeline->Enter(category);
    last_collect = MonotonicNs();
    total += Total(Collect(*timeline));
  }
  const int64_t ended = MonotonicNs();
  EXPECT_GE(total, last_collect - started);
  EXPECT_LE(total, ended - before);
}

TEST_P(TimelineOf, GivesTimeToTheCategoryTheStreamIsIn) {
  const Stream stream = MakeStream(GetParam());
  const auto timeline = MakeTimeline(stream);
  {
    Span matmul(stream.view(), "matmul", kMatmul);
    Work(stream.view(), 4);
    {
      Span wait(stream.view(), "wait", kWait);
      Work(stream.view(), 12);
    }
    Work(stream.view(), 4);
  }
  EXPECT_EQ(timeline->current(), kOther);
  const std::vector<int64_t> sums = Collect(*timeline);
  EXPECT_GE(sums[kMatmul], 8 * kMillisecond);
  EXPECT_GE(sums[kWait], 12 * kMillisecond);
}

TEST_P(TimelineOf, CollectStartsTheNextIntervalInTheSameCategory) {
  const Stream stream = MakeStream(GetParam());
  const auto timeline = MakeTimeline(stream);
  Span matmul(stream.view(), "matmul", kMatmul);
  Work(stream.view(), 2);
  EXPECT_GE(Collect(*timeline)[kMatmul], 2 * kMillisecond);
  Work(stream.view(), 2);
  const std::vector<int64_t> sums = Collect(*timeline);
  EXPECT_GE(sums[kMatmul], 2 * kMillisecond);
  EXPECT_EQ(sums[kOther], 0);
  EXPECT_EQ(sums[kWait], 0);
}

TEST(Timeline, OfAQueueMeasuresTheStreamNotTheHost) {
  const Stream stream = MakeStream(StreamMode::kQueue);
  const auto timeline = MakeTimeline(stream);
  Work(stream.view(), 10);  // the host has entered kWait long before this ends
  timeline->Enter(kWait);
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  timeline->Enter(kOther);
  Work(stream.view(), 1);
  const std::vector<int64_t> sums = Collect(*timeline);
  EXPECT_GE(sums[kOther], 11 * kMillisecond);
  EXPECT_LT(sums[kWait], 10 * kMillisecond);
}

TEST(Timeline, BeyondItsMarksCountsAndStillTiles) {
  const Stream stream = MakeStream(StreamMode::kInline);
  const auto timeline = MakeTimeline(stream, 4);
  for (int i = 0; i < 3; ++i) {
    timeline->Enter(kMatmul);  // dropped the second and the third time: one mark stays for Collect
    timeline->Enter(kWait);
  }
  EXPECT_EQ(timeline->dropped_marks(), 2);
  const int64_t begin = MonotonicNs();
  Work(stream.view(), 2);
  const int64_t end = MonotonicNs();
  const std::vector<int64_t> sums = Collect(*timeline);
  EXPECT_GE(sums[kWait], end - begin);  // with the last category that had a mark
  timeline->Enter(kMatmul);             // a new interval has its marks again
  EXPECT_EQ(timeline->dropped_marks(), 2);
}

TEST(Timeline, DetachesWhenItEnds) {
  const Stream stream = MakeStream(StreamMode::kInline);
  {
    const auto timeline = MakeTimeline(stream);
    EXPECT_EQ(stream.view().timeline(), timeline.get());
  }
  EXPECT_EQ(stream.view().timeline(), nullptr);
  Span span(stream.view(), "without a timeline", kMatmul);  // does nothing
}

TEST(Timeline, MayEndBeforeTheStreamReachesItsMarks) {
  constexpr size_t kMarks = 64;
  const Stream stream = MakeStream(StreamMode::kQueue);
  std::promise<void> gate;
  stream.view().Enqueue([&] { gate.get_future().wait(); });
  {
    const auto timeline = MakeTimeline(stream, kMarks);
    for (int i = 0; i < 20; ++i) timeline->Enter(i % 2 == 0 ? kMatmul : kWait);
  }
  // Were the marks' memory free already, one of these would get it, and the marks written into it.
  std::vector<std::vector<int64_t>> next(8);
  for (std::vector<int64_t>& block : next) block.resize(kMarks);
  gate.set_value();
  ASSERT_TRUE(stream.view().Synchronize().ok());
  for (const std::vector<int64_t>& block : next) {
    EXPECT_EQ(std::count(block.begin(), block.end(), 0), kMarks);
  }
}

TEST(Timeline, CollectReturnsTheStreamsError) {
  const Stream stream = MakeStream(StreamMode::kQueue);
  const auto timeline = MakeTimeline(stream);
  stream.view().Fail(absl::UnavailableError("lost"));
  EXPECT_EQ(timeline->Collect().status(), absl::UnavailableError("lost"));
}

TEST(CudaTimeline, RoomGrowsToWhatAnIntervalWanted) {
  if (DeviceCount(DeviceType::kCuda) == 0) GTEST_SKIP() << "no CUDA device here";
  auto stream = Stream::Create({DeviceType::kCuda, 0}, StreamMode::kQueue, "test");
  ASSERT_TRUE(stream.ok()) << stream.status();
  const auto timeline = MakeTimeline(*stream);
  const auto mark = [&](int marks) {
    for (int i = 0; i < marks; ++i) timeline->Enter(i % 2 == 0 ? kMatmul : kOther);
    return Total(Collect(*timeline));
  };
  EXPECT_GT(mark(5000), 0);
  const int64_t dropped = timeline->dropped_marks();
  EXPECT_GT(dropped, 1500) << "there was room for all at once: nothing was tested";
  for (int interval = 0; interval < 4; ++interval) EXPECT_GT(mark(5500), 0);
  EXPECT_EQ(timeline->dropped_marks(), dropped) << "on both of the clocks that take turns";
}

}  // namespace
}  // namespace muster::kernels
