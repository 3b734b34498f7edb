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
  // category and dropped_marks() counts.
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
  // Ends the interval at this point of the stream's order, waits for the stream to get there, and
  // returns ns per category since the Collect before; the next interval starts at the same instant,
  // in the same category. Errors: the stream's.
  absl::StatusOr<std::vector<int64_t>> Collect();
  int64_t dropped_marks() const { return dropped_; }

 private:
  struct Clock;  // reads the time of a mark on the stream's device
  Timeline(StreamView stream, int num_categories, std::unique_ptr<Clock> clock);
  StreamView stream_;
  int num_categories_, current_ = 0;
  int64_t dropped_ = 0;
  std::vector<int> categories_;  // of each mark since the last Collect
  std::unique_ptr<Clock> clock_;
};

class Span {
 public:
  Span(StreamView stream, const char* name, int category);
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  StreamView stream_;
  TraceScope trace_;
  int outer_ = 0;
};

}  // namespace muster::kernels
