#pragma once
// The calls of one communicator that are under way on a device. Each is held between two events of
// its stream; looking at the events from outside tells when a call starts, ends, or overruns its
// deadline, and the collective log is kept accordingly. So the log's times are late by up to the
// time between two looks.
//
// The deadline counts from when the device gets to the call and the calls before it on the same
// communicator are done: waiting for this rank's own compute is not held against it.
#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "parallel/comm/communicator.h"

namespace muster::parallel {

class CallTracker {
 public:
  using Clock = std::chrono::steady_clock;
  // Whether the device has got to an event's latest record.
  using Reached = std::function<absl::StatusOr<bool>(kernels::EventView)>;

  struct Events {
    kernels::Event begin, end;
  };
  struct Ticket {
    CollectiveCall call;
    kernels::StreamView stream;
    Events events;
    std::optional<Clock::time_point> started;
  };

  CallTracker(kernels::Device device, std::chrono::milliseconds deadline, Reached reached)
      : device_(device), reached_(std::move(reached)), deadline_(deadline) {}

  // Also of the calls under way.
  void SetDeadline(std::chrono::milliseconds deadline) {
    std::lock_guard lock(mutex_);
    deadline_ = deadline;
  }

  // Around enqueueing a call: Begin marks the stream before it, End after it. A ticket that does
  // not come back is a call that could not be made. The stream must outlive its calls.
  absl::StatusOr<Ticket> Begin(CollectiveCall call, kernels::StreamView stream);
  void End(Ticket ticket);

  // Looks at the calls under way, oldest first. Errors: DeadlineExceeded, or what the device says.
  absl::Status Poll(Clock::time_point now);
  // The oldest call under way, if there is one.
  std::optional<CollectiveCall> Oldest() const;
  // Leaves `status` in the stream and the log of every call under way, and forgets them.
  void FailAll(const absl::Status& status);

 private:
  const kernels::Device device_;
  const Reached reached_;
  mutable std::mutex mutex_;
  std::chrono::milliseconds deadline_;
  std::deque<Ticket> pending_;
  std::vector<Events> spare_;  // to be recorded again
};

}  // namespace muster::parallel
