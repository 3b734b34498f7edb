#include "kernels/device/span.h"

#include <ctime>

#include "kernels/base/error.h"
#ifdef MUSTER_WITH_CUDA
#include "kernels/device/cuda_runtime.h"
#endif

namespace muster::kernels {

int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Mark 0 is the start of the interval. On CPU a mark's time is written when the stream reaches it,
// which may be after the timeline has ended: the marks that wait in the queue own the times too. On
// CUDA a mark is a timed event (the driver keeps one that is pending), and times count from mark 0.
struct Timeline::Clock {
  explicit Clock(size_t max_marks) : times(std::make_shared<std::vector<int64_t>>(max_marks)) {}

  const std::shared_ptr<std::vector<int64_t>> times;  // ns
#ifdef MUSTER_WITH_CUDA
  std::vector<std::unique_ptr<EventState>> events;
#endif

  void Mark(size_t index, StreamView stream) {
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) {
      stream.Record(EventView(events[index].get()));
      return;
    }
#endif
    stream.Enqueue([times = times, index] { (*times)[index] = MonotonicNs(); });
  }

  absl::Status Read(size_t num_marks) {
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) {
      (*times)[0] = 0;
      for (size_t i = 1; i < num_marks; ++i) {
        ASSIGN_OR_RETURN((*times)[i], cuda::ElapsedNs(*events[0], *events[i]));
      }
    }
#endif
    (void)num_marks;
    return absl::OkStatus();
  }

  // The last mark of one interval is the first of the next.
  void Restart(size_t last) {
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) std::swap(events[0], events[last]);
#endif
    (*times)[0] = (*times)[last];
  }
};

Timeline::Timeline(StreamView stream, int num_categories, std::unique_ptr<Clock> clock)
    : stream_(stream), num_categories_(num_categories), clock_(std::move(clock)) {
  categories_.reserve(clock_->times->size());
  categories_.push_back(current_);
  clock_->Mark(0, stream_);
}

Timeline::~Timeline() {
  if (stream_.timeline() == this) stream_.AttachTimeline(nullptr);
}

absl::StatusOr<std::unique_ptr<Timeline>> Timeline::Create(StreamView stream, int num_categories,
                                                           int max_marks) {
  MUSTER_CHECK(num_categories > 0 && max_marks > 1);
  auto clock = std::make_unique<Clock>(static_cast<size_t>(max_marks));
#ifdef MUSTER_WITH_CUDA
  if (stream.device().type == DeviceType::kCuda) {
    for (int i = 0; i < max_marks; ++i) {
      ASSIGN_OR_RETURN(auto event, cuda::MakeTimedEvent(stream.device()));
      clock->events.push_back(std::move(event));
    }
  }
#endif
  std::unique_ptr<Timeline> timeline(new Timeline(stream, num_categories, std::move(clock)));
  stream.AttachTimeline(timeline.get());
  return timeline;
}

void Timeline::Enter(int category) {
  MUSTER_CHECK(category >= 0 && category < num_categories_);
  if (category == current_) return;
  // One mark stays free for Collect.
  if (categories_.size() + 1 >= clock_->times->size()) {
    ++dropped_;
    return;
  }
  clock_->Mark(categories_.size(), stream_);
  categories_.push_back(category);
  current_ = category;
}

absl::StatusOr<std::vector<int64_t>> Timeline::Collect() {
  const size_t end = categories_.size();
  clock_->Mark(end, stream_);
  RETURN_IF_ERROR(stream_.Synchronize());
  RETURN_IF_ERROR(clock_->Read(end + 1));
  const std::vector<int64_t>& times = *clock_->times;
  std::vector<int64_t> sums(static_cast<size_t>(num_categories_), 0);
  for (size_t i = 0; i < end; ++i) {
    sums[static_cast<size_t>(categories_[i])] += times[i + 1] - times[i];
  }
  clock_->Restart(end);
  categories_.assign(1, current_);
  return sums;
}

Span::Span(StreamView stream, const char* name, int category)
    : stream_(stream), trace_(stream, name) {
  if (Timeline* timeline = stream_.timeline()) {
    outer_ = timeline->current();
    timeline->Enter(category);
  }
}

Span::~Span() {
  if (Timeline* timeline = stream_.timeline()) timeline->Enter(outer_);
}

}  // namespace muster::kernels
