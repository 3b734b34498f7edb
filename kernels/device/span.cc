#include "kernels/device/span.h"

#include <algorithm>
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

namespace {

// Of a CUDA timeline: creating one takes a microsecond or two. Others are made as intervals show
// that they want them.
constexpr size_t kFirstEvents = 1024;

}  // namespace

// Mark 0 is the start of the interval. On CPU a mark's time is written when the stream reaches it,
// which may be after the timeline has ended: the marks that wait in the queue own the times too. On
// CUDA a mark is a timed event (the driver keeps one that is pending), and times count from mark 0.
struct Timeline::Clock {
  explicit Clock(size_t max_marks) : times(std::make_shared<std::vector<int64_t>>(max_marks)) {
    categories.reserve(max_marks);
  }

  std::vector<int> categories;                        // from each mark on
  int64_t dropped = 0;                                // for want of room
  const std::shared_ptr<std::vector<int64_t>> times;  // ns
#ifdef MUSTER_WITH_CUDA
  std::vector<std::unique_ptr<EventState>> events;
#endif

  static absl::StatusOr<std::unique_ptr<Clock>> Create(Device device, int max_marks) {
    auto clock = std::make_unique<Clock>(static_cast<size_t>(max_marks));
    RETURN_IF_ERROR(clock->MakeRoom(device, kFirstEvents));
    return clock;
  }

  // Marks there is room for now, with the last one.
  size_t room() const {
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) return events.size();
#endif
    return times->size();
  }

  absl::Status MakeRoom([[maybe_unused]] Device device, [[maybe_unused]] size_t marks) {
#ifdef MUSTER_WITH_CUDA
    marks = std::min(marks, times->size());
    while (device.type == DeviceType::kCuda && events.size() < marks) {
      ASSIGN_OR_RETURN(auto event, cuda::MakeTimedEvent(device));
      events.push_back(std::move(event));
    }
#endif
    return absl::OkStatus();
  }

  void Mark(int category, StreamView stream) {
    const size_t index = categories.size();
    categories.push_back(category);
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) {
      stream.Record(EventView(events[index].get()));
      return;
    }
#endif
    stream.Enqueue([times = times, index] { (*times)[index] = MonotonicNs(); });
  }

  // The last mark of this interval is the first of the next, which goes on in `category`.
  void End(Clock& next, int category, StreamView stream) {
    const size_t end = categories.size();
    next.dropped = 0;
    next.categories.assign(1, category);
#ifdef MUSTER_WITH_CUDA
    if (!events.empty()) {
      stream.Record(EventView(events[end].get()));
      std::swap(events[end], next.events[0]);
      return;
    }
#endif
    stream.Enqueue([times = times, next_times = next.times, end] {
      (*times)[end] = (*next_times)[0] = MonotonicNs();
    });
  }

  // After End. Fills in `times` up to the last mark.
  absl::Status Read([[maybe_unused]] const Clock& next) {
#ifdef MUSTER_WITH_CUDA
    if (events.empty()) return absl::OkStatus();
    const size_t end = categories.size();
    (*times)[0] = 0;
    for (size_t i = 1; i <= end; ++i) {
      EventState& mark = i == end ? *next.events[0] : *events[i];
      ASSIGN_OR_RETURN((*times)[i], cuda::ElapsedNs(*events[0], mark));
    }
#endif
    return absl::OkStatus();
  }
};

Timeline::Timeline(StreamView stream, int num_categories, Event cut, std::unique_ptr<Clock> open,
                   std::unique_ptr<Clock> ended)
    : stream_(stream),
      num_categories_(num_categories),
      cut_(std::move(cut)),
      open_(std::move(open)),
      ended_(std::move(ended)) {
  open_->Mark(current_, stream_);
}

Timeline::~Timeline() {
  if (stream_.timeline() == this) stream_.AttachTimeline(nullptr);
}

absl::StatusOr<std::unique_ptr<Timeline>> Timeline::Create(StreamView stream, int num_categories,
                                                           int max_marks) {
  MUSTER_CHECK(num_categories > 0 && max_marks > 1);
  ASSIGN_OR_RETURN(std::unique_ptr<Clock> open, Clock::Create(stream.device(), max_marks));
  ASSIGN_OR_RETURN(std::unique_ptr<Clock> ended, Clock::Create(stream.device(), max_marks));
  ASSIGN_OR_RETURN(Event cut, Event::Create(stream.device()));
  std::unique_ptr<Timeline> timeline(
      new Timeline(stream, num_categories, std::move(cut), std::move(open), std::move(ended)));
  stream.AttachTimeline(timeline.get());
  return timeline;
}

void Timeline::Enter(int category) {
  MUSTER_CHECK(category >= 0 && category < num_categories_);
  if (category == current_) return;
  // One mark stays free for Cut.
  if (open_->categories.size() + 1 >= open_->room()) {
    ++open_->dropped;
    ++dropped_;
    return;
  }
  open_->Mark(category, stream_);
  current_ = category;
}

void Timeline::Cut() {
  MUSTER_CHECK(!unread_) << "the interval before was not read";
  unread_ = true;
  open_->End(*ended_, current_, stream_);
  stream_.Record(cut_.view());
  std::swap(open_, ended_);
}

absl::StatusOr<std::vector<int64_t>> Timeline::Read() {
  MUSTER_CHECK(unread_) << "no interval was cut since the last was read";
  unread_ = false;
  RETURN_IF_ERROR(stream_.Await(cut_.view()));
  RETURN_IF_ERROR(ended_->Read(*open_));
  const std::vector<int64_t>& times = *ended_->times;
  std::vector<int64_t> sums(static_cast<size_t>(num_categories_), 0);
  for (size_t i = 0; i < ended_->categories.size(); ++i) {
    sums[static_cast<size_t>(ended_->categories[i])] += times[i + 1] - times[i];
  }
  const size_t wanted = ended_->categories.size() + static_cast<size_t>(ended_->dropped);
  for (Clock* clock : {ended_.get(), open_.get()}) {
    if (clock->room() < 2 * wanted) {
      RETURN_IF_ERROR(clock->MakeRoom(stream_.device(), 2 * wanted));
    }
  }
  return sums;
}

Span::Span(StreamView stream, const char* name, int category)
    : stream_(stream), trace_(stream, name) {
  Enter(category);
}

void Span::Enter(int category) {
  if (Timeline* timeline = stream_.timeline()) {
    outer_ = timeline->current();
    timeline->Enter(category);
  }
}

Span::~Span() {
  if (Timeline* timeline = stream_.timeline()) timeline->Enter(outer_);
}

}  // namespace muster::kernels
