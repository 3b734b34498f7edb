#pragma once
// A stream is an ordered queue of work on one device; an event is a point in a stream's order.
// Owners (Stream, Event) move, views (StreamView, EventView) copy. CPU and CUDA behave alike: work
// is enqueued and runs later, in order; two streams are ordered only by events. On CPU a stream is
// either a queue with a thread of its own, or runs each piece of work at once in the caller
// (StreamMode::kInline, the default of the compute stream). A missing Wait is a race on both.
//
// Errors: work that can fail (a collective, a copy from a device) leaves its first error in the
// stream; later work still runs, and Synchronize returns that error.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/device/device.h"

namespace muster::kernels {

class MatmulNotes;
class Timeline;
class Trace;

// Scratch of a CUDA stream, taken once when the stream is created: operators that need room between
// two of their kernels (partial sums, sorted indices, a library's workspace) use it from its start.
// Work of one stream runs in order, so what an operator leaves there lives only until the next.
constexpr int64_t kStreamWorkspaceBytes = int64_t{64} << 20;
struct Workspace {
  void* data = nullptr;
  int64_t bytes = 0;  // 0 on CPU, kStreamWorkspaceBytes on CUDA
};

// The state behind an event and a stream; one implementation per kind of device.
class EventState {
 public:
  virtual ~EventState() = default;
};
// What the operators of a device keep with a stream between calls: library handles, plans, scratch
// memory. Made by the first operator that wants it, destroyed with the stream.
class StreamContext {
 public:
  virtual ~StreamContext() = default;
};
// What a stream recorded (kernels/device/graph.h).
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
};
class StreamState {
 public:
  StreamState(Device device, bool runs_inline) : device(device), runs_inline(runs_inline) {}
  virtual ~StreamState() = default;
  virtual void Record(EventState& event) = 0;
  virtual void Wait(EventState& event) = 0;
  virtual absl::Status Await(EventState& event) = 0;
  virtual absl::Status Synchronize() = 0;
  virtual void Push(std::function<void()> work) = 0;  // host work in stream order
  virtual void Fail(const absl::Status& status) = 0;
  virtual absl::Status status() = 0;
  virtual void* native_handle() = 0;
  virtual Workspace workspace() { return {}; }
  virtual absl::Status BeginRecording() = 0;
  virtual absl::StatusOr<std::unique_ptr<RecordedWork>> EndRecording() = 0;
  virtual void Launch(RecordedWork& work) = 0;

  const Device device;
  const bool runs_inline;
  bool records = false;          // between BeginRecording and EndRecording
  Timeline* timeline = nullptr;  // see kernels/device/span.h; owned by who attached it
  Trace* trace = nullptr;        // see kernels/device/trace.h; likewise
  int trace_row = 0;
  MatmulNotes* notes = nullptr;  // see kernels/ops/matmul_notes.h; likewise
  bool dry = false;              // drops what is enqueued; on CPU only
  std::unique_ptr<StreamContext> context;
};

class EventView {
 public:
  EventView() = default;
  explicit EventView(EventState* state) : state_(state) {}
  EventState& state() const { return *state_; }

 private:
  EventState* state_ = nullptr;
};

class Event {
 public:
  static absl::StatusOr<Event> Create(Device device);
  EventView view() const { return EventView(state_.get()); }

 private:
  explicit Event(std::unique_ptr<EventState> state) : state_(std::move(state)) {}
  std::unique_ptr<EventState> state_;
};

class StreamView {
 public:
  StreamView() = default;
  explicit StreamView(StreamState* state) : state_(state) {}

  // The event stands for all work enqueued on this stream so far; it may be recorded again.
  void Record(EventView event) const { state_->Record(event.state()); }
  // Later work on this stream waits for the event's latest record; the host does not (unless the
  // stream is inline). An event never recorded is waited for at once.
  void Wait(EventView event) const { state_->Wait(event.state()); }
  // Blocks the host until all enqueued work has run; returns the stream's first error. This call
  // and the next are the only ones here that block the host.
  absl::Status Synchronize() const { return state_->Synchronize(); }
  // Blocks the host until the event's latest record, made on this stream, is reached, whatever was
  // enqueued after it; returns the stream's first error so far.
  absl::Status Await(EventView event) const { return state_->Await(event.state()); }

  // Runs host work in stream order. What it captures must outlive its run. On CUDA it must not
  // call CUDA.
  template <typename Work>
  void Enqueue(Work&& work) const {
    if (state_->dry) return;
    if (state_->runs_inline && !state_->records) {
      work();
    } else {
      state_->Push(std::function<void()>(std::forward<Work>(work)));
    }
  }
  // The stream's first error so far, without waiting.
  absl::Status status() const { return state_->status(); }
  // Leaves an error in the stream, from work that runs on it; the first one stays.
  void Fail(const absl::Status& status) const { state_->Fail(status); }

  Device device() const { return state_->device; }
  // Whether work has run when the call that enqueues it returns.
  bool runs_inline() const { return state_->runs_inline; }
  // Whether what is enqueued now is recorded instead of run.
  bool records() const { return state_->records; }
  Timeline* timeline() const { return state_->timeline; }
  void AttachTimeline(Timeline* timeline) const { state_->timeline = timeline; }
  Trace* trace() const { return state_->trace; }
  int trace_row() const { return state_->trace_row; }
  void AttachTrace(Trace* trace, int row) const {
    state_->trace = trace;
    state_->trace_row = row;
  }
  MatmulNotes* notes() const { return state_->notes; }
  // Whether operators, copies and collectives do nothing here: memory need not be there.
  bool dry() const { return state_->dry; }
  void AttachNotes(MatmulNotes* notes, bool dry) const {
    state_->notes = notes;
    state_->dry = dry;
  }
  // Used by one thread at a time, the one that enqueues.
  std::unique_ptr<StreamContext>& context() const { return state_->context; }
  void* native_handle() const { return state_->native_handle(); }  // cudaStream_t; null on CPU
  Workspace workspace() const { return state_->workspace(); }
  bool valid() const { return state_ != nullptr; }
  StreamState& state() const { return *state_; }  // for kernels/device

 private:
  StreamState* state_ = nullptr;
};

enum class StreamMode {
  kInline,  // CPU only: work runs at once in the caller
  kQueue,   // an ordered queue of its own; on CPU with its own thread
};
enum class StreamPriority { kNormal, kHigh };  // CUDA only: high goes first when both could run

class Stream {
 public:
  // Errors: an unknown device; CUDA asked of a build without it.
  static absl::StatusOr<Stream> Create(Device device, StreamMode mode, std::string name,
                                       StreamPriority priority = StreamPriority::kNormal);
  StreamView view() const { return StreamView(state_.get()); }

 private:
  explicit Stream(std::unique_ptr<StreamState> state) : state_(std::move(state)) {}
  std::unique_ptr<StreamState> state_;
};

}  // namespace muster::kernels
