#pragma once
// Where a stream's time goes. A Timeline is attached to one stream (the compute stream); from each
// mark on, the stream's time belongs to the mark's category, until the next. Marks tile: the parts
// of a step sum to the step, as integers. On CPU a mark is a clock reading when the stream gets
// there, on CUDA a timed event, so reading is possible once the stream has passed it.
//
// A Span is a scope: it marks its category, and on leaving marks the one before. It is also an
// interval of the stream's trace (kernels/device/trace.h), if one is attached, and an NVTX range of
// the same name in CUDA builds.
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"
#include "kernels/device/trace.h"

namespace muster::kernels {

// Nanoseconds of CLOCK_MONOTONIC.
int64_t MonotonicNs();

class Timeline {
 public:
  // `max_marks` bounds the marks between two calls of Collect; beyond it time stays with the last
  // category and dropped_marks() counts. On CUDA there is room for a thousand at first; reading an
  // interval that used half of the room doubles it.
  static absl::StatusOr<std::unique_ptr<Timeline>> Create(StreamView stream, int num_categories,
                                                          int max_marks = 1 << 14);
  // Does not wait: marks the stream has yet to reach pass without effect. The stream must outlive
  // it.
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // From here in the stream's order, time belongs to `category`.
  void Enter(int category);
  int current() const { return current_; }
  // Ends the interval at this point of the stream's order, without waiting; the next one starts at
  // the same instant, in the same category. An interval must be read before the next one is cut.
  void Cut();
  // Waits for the stream to get to the last Cut, not for what was enqueued since, and returns the
  // ns per category of the interval that it ended. Errors: the stream's.
  absl::StatusOr<std::vector<int64_t>> Read();
  absl::StatusOr<std::vector<int64_t>> Collect() {  // cuts and reads
    Cut();
    return Read();
  }
  int64_t dropped_marks() const { return dropped_; }

 private:
  // The marks of one interval: where they are, and a clock that reads their times on the device.
  struct Clock;
  Timeline(StreamView stream, int num_categories, Event cut, std::unique_ptr<Clock> open,
           std::unique_ptr<Clock> ended);
  StreamView stream_;
  int num_categories_, current_ = 0;
  int64_t dropped_ = 0;
  bool unread_ = false;
  Event cut_;
  std::unique_ptr<Clock> open_, ended_;  // of the interval under way, and of the one before
};

class Span {
 public:
  Span(StreamView stream, const char* name, int category);
  // `work` is asked for only if a trace is attached.
  template <typename Work>
  Span(StreamView stream, const char* name, int category, Work&& work)
      : stream_(stream), trace_(stream, name, std::forward<Work>(work)) {
    Enter(category);
  }
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  void Enter(int category);
  StreamView stream_;
  TraceScope trace_;
  int outer_ = 0;
};

}  // namespace muster::kernels
