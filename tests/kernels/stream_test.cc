#include "kernels/device/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "kernels/base/error.h"

namespace muster::kernels {
namespace {

Stream MakeStream(StreamMode mode) {
  auto stream = Stream::Create({}, mode, "test");
  MUSTER_CHECK_OK(stream.status());
  return *std::move(stream);
}
Event MakeEvent() {
  auto event = Event::Create({});
  MUSTER_CHECK_OK(event.status());
  return *std::move(event);
}

// Work that blocks its stream until the host opens the gate.
class Gate {
 public:
  ~Gate() { Open(); }
  void Block(StreamView stream) {
    stream.Enqueue([opened = opened_] { opened.wait(); });
  }
  void Open() {
    if (!open_) opening_.set_value();
    open_ = true;
  }

 private:
  std::promise<void> opening_;
  std::shared_future<void> opened_{opening_.get_future()};
  bool open_ = false;
};

// Long enough that work which was free to run would have run.
void GiveOthersTime() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

TEST(QueueStream, RunsWorkInOrder) {
  const Stream stream = MakeStream(StreamMode::kQueue);
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) stream.view().Enqueue([&order, i] { order.push_back(i); });
  ASSERT_TRUE(stream.view().Synchronize().ok());
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(QueueStream, RunsBesideTheHost) {
  const Stream stream = MakeStream(StreamMode::kQueue);
  Gate gate;
  std::atomic<bool> ran{false};
  gate.Block(stream.view());  // returns although the work cannot run
  stream.view().Enqueue([&] { ran = true; });
  GiveOthersTime();
  EXPECT_FALSE(ran);
  gate.Open();
  ASSERT_TRUE(stream.view().Synchronize().ok());
  EXPECT_TRUE(ran);
}

TEST(QueueStream, RunsWhatWasEnqueuedEvenIfItEnds) {
  int count = 0;
  {
    const Stream stream = MakeStream(StreamMode::kQueue);
    for (int i = 0; i < 100; ++i) stream.view().Enqueue([&count] { ++count; });
  }
  EXPECT_EQ(count, 100);
}

TEST(QueueStream, ReleasesWhatWorkCapturedBeforeItIsIdle) {
  const Stream stream = MakeStream(StreamMode::kQueue);
  for (int i = 0; i < 100; ++i) {
    auto owned = std::make_shared<int>(i);
    std::weak_ptr<int> watched = owned;
    stream.view().Enqueue([owned = std::move(owned)] {});
    ASSERT_TRUE(stream.view().Synchronize().ok());
    EXPECT_TRUE(watched.expired());
  }
}

TEST(InlineStream, RunsWorkAtOnceInTheCaller) {
  const Stream stream = MakeStream(StreamMode::kInline);
  std::thread::id ran_in;
  stream.view().Enqueue([&] { ran_in = std::this_thread::get_id(); });
  EXPECT_EQ(ran_in, std::this_thread::get_id());
}

TEST(Event, AWaitOrdersTwoStreams) {
  const Stream first = MakeStream(StreamMode::kQueue), second = MakeStream(StreamMode::kQueue);
  const Event written = MakeEvent();
  Gate gate;
  std::atomic<int> value{0};
  int seen = -1;
  gate.Block(first.view());
  first.view().Enqueue([&] { value = 7; });
  first.view().Record(written.view());
  second.view().Wait(written.view());
  second.view().Enqueue([&] { seen = value; });
  GiveOthersTime();
  gate.Open();
  ASSERT_TRUE(second.view().Synchronize().ok());
  EXPECT_EQ(seen, 7);
}

TEST(Event, AMissingWaitIsObservable) {
  const Stream first = MakeStream(StreamMode::kQueue), second = MakeStream(StreamMode::kQueue);
  Gate gate;
  std::atomic<int> value{0};
  int seen = -1;
  gate.Block(first.view());
  first.view().Enqueue([&] { value = 7; });
  second.view().Enqueue([&] { seen = value; });
  ASSERT_TRUE(second.view().Synchronize().ok());  // does not wait for the first stream
  EXPECT_EQ(seen, 0);
}

TEST(Event, StandsForItsLatestRecordBeforeTheWait) {
  const Stream first = MakeStream(StreamMode::kQueue), second = MakeStream(StreamMode::kQueue);
  const Event event = MakeEvent();
  first.view().Record(event.view());
  second.view().Wait(event.view());
  Gate gate;
  gate.Block(first.view());
  first.view().Record(event.view());  // a later record does not hold back an earlier wait
  EXPECT_TRUE(second.view().Synchronize().ok());

  std::atomic<bool> ran{false};
  second.view().Wait(event.view());  // but a later wait is for the later record
  second.view().Enqueue([&] { ran = true; });
  GiveOthersTime();
  EXPECT_FALSE(ran);
  gate.Open();
  EXPECT_TRUE(second.view().Synchronize().ok());
  EXPECT_TRUE(ran);
}

TEST(Event, NeverRecordedIsWaitedForAtOnce) {
  const Event event = MakeEvent();
  for (StreamMode mode : {StreamMode::kQueue, StreamMode::kInline}) {
    const Stream stream = MakeStream(mode);
    stream.view().Wait(event.view());
    EXPECT_TRUE(stream.view().Synchronize().ok());
  }
}

TEST(Event, MayEndWhileItsRecordsAndWaitsAreEnqueued) {
  const Stream recording = MakeStream(StreamMode::kQueue), waiting = MakeStream(StreamMode::kQueue);
  std::atomic<bool> recorded{false};
  bool ordered = false;
  Gate gate;
  {
    const Event event = MakeEvent();
    gate.Block(recording.view());
    recording.view().Enqueue([&] { recorded = true; });
    recording.view().Record(event.view());
    waiting.view().Wait(event.view());
    waiting.view().Enqueue([&] { ordered = recorded; });
  }
  GiveOthersTime();
  gate.Open();
  ASSERT_TRUE(recording.view().Synchronize().ok());
  ASSERT_TRUE(waiting.view().Synchronize().ok());
  EXPECT_TRUE(ordered);
}

TEST(Event, AnInlineStreamWaitsInTheCaller) {
  const Stream queue = MakeStream(StreamMode::kQueue), compute = MakeStream(StreamMode::kInline);
  const Event event = MakeEvent();
  std::atomic<int> value{0};
  queue.view().Enqueue([&] {
    GiveOthersTime();
    value = 7;
  });
  queue.view().Record(event.view());
  compute.view().Wait(event.view());
  EXPECT_EQ(value, 7);
}

TEST(Stream, KeepsItsFirstErrorAndGoesOn) {
  for (StreamMode mode : {StreamMode::kQueue, StreamMode::kInline}) {
    const Stream stream = MakeStream(mode);
    const StreamView view = stream.view();
    bool later_ran = false;
    view.Enqueue([view] { view.Fail(absl::OkStatus()); });
    EXPECT_TRUE(view.Synchronize().ok());
    view.Enqueue([view] { view.Fail(absl::UnavailableError("first")); });
    view.Enqueue([view] { view.Fail(absl::InternalError("second")); });
    view.Enqueue([&later_ran] { later_ran = true; });
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(view.Synchronize(), absl::UnavailableError("first"));
    }
    EXPECT_TRUE(later_ran);
  }
}

TEST(Stream, OfAMissingDeviceIsAnError) {
  if (DeviceCount(DeviceType::kCuda) > 0) GTEST_SKIP() << "this machine has CUDA";
  const Device cuda{DeviceType::kCuda, 0};
  EXPECT_FALSE(Stream::Create(cuda, StreamMode::kQueue, "test").ok());
  EXPECT_FALSE(Event::Create(cuda).ok());
}

}  // namespace
}  // namespace muster::kernels
