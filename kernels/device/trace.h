#pragma once
// What ran when: while a trace is attached to some streams of one device, every operator
// (kernels/ops/dispatch.cc), collective and Span enqueued on them is an interval, with the times at
// which its stream reached its begin and its end. Intervals of one stream nest. On CPU a time is a
// clock reading when the stream gets there, on CUDA a timed event, which costs the stream about a
// microsecond: trace a step to see where its time goes, not to report its speed.
//
// In CUDA builds a TraceScope is an NVTX range too, whether or not a trace is attached.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/stream.h"

namespace muster::kernels {

enum class TraceKind : uint8_t { kScope, kOperator, kCollective };

// What an interval had to do at least; zeros where nobody counts it.
struct TracedWork {
  double flops = 0;    // of matrix products, attention's among them
  double bytes = 0;    // of the device's memory, read and written
  std::string detail;  // "8192 x 2048 x 2048": what tells calls of one operator apart
  TraceKind kind = TraceKind::kScope;
};

class Trace {
 public:
  struct Row {
    StreamView stream;
    std::string name;  // "compute"
  };
  struct Interval {
    int row = 0;
    int depth = 0;  // how many intervals of its row it lies in
    std::string name;
    TracedWork work;
    int64_t begin_ns = 0, end_ns = 0;  // CLOCK_MONOTONIC of this host
  };

  // Attaches a trace to all rows, which are on one device. Waits for them once, to tie the device's
  // clock to the host's. Intervals beyond `max_intervals` are dropped and counted.
  static absl::StatusOr<std::unique_ptr<Trace>> Start(std::vector<Row> rows,
                                                      int max_intervals = 1 << 14);
  ~Trace();  // detaches; marks that a stream has yet to reach pass without effect
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  // Detaches, waits for all rows, and returns the intervals in the order in which they began to be
  // enqueued. Errors: a stream's.
  absl::StatusOr<std::vector<Interval>> Stop();
  const std::vector<Row>& rows() const { return rows_; }
  int64_t dropped() const { return dropped_; }

  // Used by TraceScope, by the thread that enqueues. -1: there is no room.
  int Begin(StreamView stream, const char* name, TracedWork work);
  void End(int index);

 private:
  struct Clock;  // reads the times of marks on the rows' device
  Trace(std::vector<Row> rows, std::unique_ptr<Clock> clock);
  void Detach();

  std::vector<Row> rows_;
  std::unique_ptr<Clock> clock_;
  std::vector<Interval> intervals_;
  std::vector<int> open_;  // by row: scopes under way
  int64_t dropped_ = 0;
};

class TraceScope {
 public:
  TraceScope(StreamView stream, const char* name);
  // `work` is asked for only if a trace is attached.
  template <typename Work>
  TraceScope(StreamView stream, const char* name, Work&& work) : TraceScope(name) {
    if (stream.trace() == nullptr) return;
    trace_ = stream.trace();
    index_ = trace_->Begin(stream, name, work());
  }
  ~TraceScope();
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  explicit TraceScope(const char* name);
  Trace* trace_ = nullptr;
  int index_ = -1;
};

}  // namespace muster::kernels
