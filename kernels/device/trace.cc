#include "kernels/device/trace.h"

#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/span.h"
#ifdef MUSTER_WITH_CUDA
#include <nvtx3/nvToolsExt.h>

#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {

// Marks 2i and 2i + 1 are interval i's begin and end. On CPU the marks that wait in a queue own the
// times too, which may outlive the trace.
struct Trace::Clock {
  explicit Clock(size_t num_marks) : times(std::make_shared<std::vector<int64_t>>(num_marks)) {}

  const std::shared_ptr<std::vector<int64_t>> times;  // ns, CLOCK_MONOTONIC
#ifdef MUSTER_WITH_CUDA
  std::vector<std::unique_ptr<EventState>> events;
  std::unique_ptr<EventState> origin;
  int64_t origin_ns = 0;
#endif

  void Mark(size_t mark, StreamView stream) {
#ifdef MUSTER_WITH_CUDA
    if (origin != nullptr) {
      stream.Record(EventView(events[mark].get()));
      return;
    }
#endif
    stream.Enqueue([times = times, mark] { (*times)[mark] = MonotonicNs(); });
  }

  absl::Status Read([[maybe_unused]] size_t num_marks) {
#ifdef MUSTER_WITH_CUDA
    for (size_t mark = 0; origin != nullptr && mark < num_marks; ++mark) {
      ASSIGN_OR_RETURN(const int64_t ns, cuda::ElapsedNs(*origin, *events[mark]));
      (*times)[mark] = origin_ns + ns;
    }
#endif
    return absl::OkStatus();
  }
};

Trace::Trace(std::vector<Row> rows, std::unique_ptr<Clock> clock)
    : rows_(std::move(rows)), clock_(std::move(clock)), open_(rows_.size(), 0) {
  for (size_t row = 0; row < rows_.size(); ++row) {
    rows_[row].stream.AttachTrace(this, static_cast<int>(row));
  }
}

Trace::~Trace() { Detach(); }

void Trace::Detach() {
  for (const Row& row : rows_) {
    if (row.stream.trace() == this) row.stream.AttachTrace(nullptr, 0);
  }
}

absl::StatusOr<std::unique_ptr<Trace>> Trace::Start(std::vector<Row> rows, int max_intervals) {
  MUSTER_CHECK(!rows.empty() && max_intervals > 0);
  const size_t num_marks = 2 * static_cast<size_t>(max_intervals);
  auto clock = std::make_unique<Clock>(num_marks);
  for (const Row& row : rows) {
    MUSTER_CHECK(row.stream.device() == rows.front().stream.device()) << row.name;
    RETURN_IF_ERROR(row.stream.Synchronize());
  }
#ifdef MUSTER_WITH_CUDA
  const StreamView first = rows.front().stream;
  if (first.device().type == DeviceType::kCuda) {
    for (size_t mark = 0; mark < num_marks; ++mark) {
      ASSIGN_OR_RETURN(auto event, cuda::MakeTimedEvent(first.device()));
      clock->events.push_back(std::move(event));
    }
    ASSIGN_OR_RETURN(clock->origin, cuda::MakeTimedEvent(first.device()));
    first.Record(EventView(clock->origin.get()));
    RETURN_IF_ERROR(first.Synchronize());
    clock->origin_ns = MonotonicNs();
  }
#endif
  return std::unique_ptr<Trace>(new Trace(std::move(rows), std::move(clock)));
}

int Trace::Begin(StreamView stream, const char* name, TracedWork work) {
  const size_t index = intervals_.size();
  if (2 * index >= clock_->times->size()) {
    ++dropped_;
    return -1;
  }
  const int row = stream.trace_row();
  intervals_.push_back({.row = row,
                        .depth = open_[static_cast<size_t>(row)]++,
                        .name = name,
                        .work = std::move(work)});
  clock_->Mark(2 * index, stream);
  return static_cast<int>(index);
}

void Trace::End(int index) {
  const auto i = static_cast<size_t>(index);
  const auto row = static_cast<size_t>(intervals_[i].row);
  --open_[row];
  clock_->Mark(2 * i + 1, rows_[row].stream);
}

absl::StatusOr<std::vector<Trace::Interval>> Trace::Stop() {
  Detach();
  for (const Row& row : rows_) RETURN_IF_ERROR(row.stream.Synchronize());
  RETURN_IF_ERROR(clock_->Read(2 * intervals_.size()));
  for (size_t i = 0; i < intervals_.size(); ++i) {
    intervals_[i].begin_ns = (*clock_->times)[2 * i];
    intervals_[i].end_ns = (*clock_->times)[2 * i + 1];
  }
  return std::move(intervals_);
}

TraceScope::TraceScope([[maybe_unused]] const char* name) {
#ifdef MUSTER_WITH_CUDA
  nvtxRangePushA(name);
#endif
}

TraceScope::TraceScope(StreamView stream, const char* name)
    : TraceScope(stream, name, [] { return TracedWork(); }) {}

TraceScope::~TraceScope() {
#ifdef MUSTER_WITH_CUDA
  nvtxRangePop();
#endif
  if (index_ >= 0) trace_->End(index_);
}

}  // namespace muster::kernels
