#include "parallel/comm/call_tracker.h"

#include <gtest/gtest.h>

#include <set>

#include "kernels/base/error.h"

namespace muster::parallel {
namespace {

using kernels::EventState;
using kernels::Stream;
using kernels::StreamMode;
using State = CollectiveEntry::State;
using std::chrono::milliseconds;

// A device whose progress the test decides: events are reached when it says so.
class CallTrackerTest : public testing::Test {
 protected:
  CallTrackerTest()
      : stream_(MakeStream()),
        tracker_({}, milliseconds(100), [this](kernels::EventView event) -> absl::StatusOr<bool> {
          if (!device_.ok()) return device_;
          return reached_.count(&event.state()) > 0;
        }) {}
  static Stream MakeStream() {
    auto stream = Stream::Create({}, StreamMode::kInline, "comm");
    MUSTER_CHECK_OK(stream.status());
    return *std::move(stream);
  }

  struct Marks {
    EventState *begin, *end;
  };
  Marks Call(uint64_t sequence) {
    CollectiveCall call;
    call.log = &log_;
    call.id = log_.Enqueued("dp", sequence, CollectiveKind::kAllReduce, 4, "x.cc:1");
    call.what = "all_reduce #" + std::to_string(sequence);
    auto ticket = tracker_.Begin(std::move(call), stream_.view());
    MUSTER_CHECK_OK(ticket.status());
    const Marks marks{&ticket->events.begin.view().state(), &ticket->events.end.view().state()};
    tracker_.End(*std::move(ticket));
    return marks;
  }
  absl::Status PollAt(int ms) { return tracker_.Poll(start_ + milliseconds(ms)); }
  State StateOf(size_t entry) { return log_.Entries()[entry].state; }

  const CallTracker::Clock::time_point start_ = CallTracker::Clock::now();
  CollectiveLog log_;
  Stream stream_;
  std::set<EventState*> reached_;
  absl::Status device_;
  CallTracker tracker_;
};

TEST_F(CallTrackerTest, WritesStartsAndEndsIntoTheLog) {
  const Marks first = Call(0), second = Call(1);
  ASSERT_TRUE(PollAt(0).ok());
  EXPECT_EQ(StateOf(0), State::kEnqueued);
  reached_ = {first.begin};
  ASSERT_TRUE(PollAt(1).ok());
  EXPECT_EQ(StateOf(0), State::kStarted);
  reached_ = {first.begin, first.end, second.begin};
  ASSERT_TRUE(PollAt(2).ok());
  EXPECT_EQ(StateOf(0), State::kDone);
  EXPECT_EQ(StateOf(1), State::kStarted);
  ASSERT_TRUE(tracker_.Oldest().has_value());
  EXPECT_EQ(tracker_.Oldest()->what, "all_reduce #1");
  reached_.insert(second.end);
  ASSERT_TRUE(PollAt(3).ok());
  EXPECT_EQ(StateOf(1), State::kDone);
  EXPECT_FALSE(tracker_.Oldest().has_value());
}

TEST_F(CallTrackerTest, CountsTheDeadlineFromTheStart) {
  const Marks call = Call(0);
  EXPECT_TRUE(PollAt(10'000).ok()) << "waiting for earlier work of this rank has no deadline";
  reached_ = {call.begin};
  EXPECT_TRUE(PollAt(20'000).ok());
  EXPECT_TRUE(PollAt(20'099).ok());
  const absl::Status status = PollAt(20'100);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status.ToString();
  ASSERT_TRUE(tracker_.Oldest().has_value());
  EXPECT_EQ(tracker_.Oldest()->what, "all_reduce #0");
}

TEST_F(CallTrackerTest, GivesACallTheWholeDeadlineAfterTheOneBefore) {
  const Marks first = Call(0), second = Call(1);
  reached_ = {first.begin, second.begin};
  ASSERT_TRUE(PollAt(0).ok());
  ASSERT_TRUE(PollAt(90).ok());
  reached_.insert(first.end);
  ASSERT_TRUE(PollAt(95).ok());
  EXPECT_TRUE(PollAt(194).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(PollAt(195)));
}

TEST_F(CallTrackerTest, EndedCallsDoNotOverrunHoweverLateTheLook) {
  const Marks call = Call(0);
  reached_ = {call.begin, call.end};
  EXPECT_TRUE(PollAt(1'000'000).ok());
  EXPECT_EQ(StateOf(0), State::kDone);
}

TEST_F(CallTrackerTest, RecordsAgainOnlyEventsOfEndedCalls) {
  const Marks first = Call(0), second = Call(1);
  reached_ = {first.begin, first.end};
  ASSERT_TRUE(PollAt(0).ok());
  const Marks third = Call(2);
  EXPECT_EQ(third.begin, first.begin);
  EXPECT_EQ(third.end, first.end);
  const Marks fourth = Call(3);
  EXPECT_EQ((std::set<EventState*>{second.begin, second.end, third.begin, third.end, fourth.begin,
                                   fourth.end})
                .size(),
            6u);
}

TEST_F(CallTrackerTest, PassesOnWhatTheDeviceSays) {
  Call(0);
  device_ = absl::InternalError("an illegal memory access");
  EXPECT_EQ(PollAt(0), device_);
}

TEST_F(CallTrackerTest, FailsAllThatIsUnderWayOnItsStream) {
  const Marks first = Call(0);
  Call(1);
  Call(2);
  reached_ = {first.begin, first.end};
  ASSERT_TRUE(PollAt(0).ok());
  const absl::Status failure = absl::DeadlineExceededError("gone");
  tracker_.FailAll(failure);
  EXPECT_EQ(stream_.view().Synchronize(), failure);
  EXPECT_EQ(StateOf(0), State::kDone);
  EXPECT_EQ(StateOf(1), State::kFailed);
  EXPECT_EQ(StateOf(2), State::kFailed);
  EXPECT_FALSE(tracker_.Oldest().has_value());
}

}  // namespace
}  // namespace muster::parallel
