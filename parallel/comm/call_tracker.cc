#include "parallel/comm/call_tracker.h"

#include "kernels/base/error.h"

namespace muster::parallel {

absl::StatusOr<CallTracker::Ticket> CallTracker::Begin(CollectiveCall call,
                                                       kernels::StreamView stream) {
  std::lock_guard lock(mutex_);
  if (spare_.empty()) {
    ASSIGN_OR_RETURN(kernels::Event begin, kernels::Event::Create(device_));
    ASSIGN_OR_RETURN(kernels::Event end, kernels::Event::Create(device_));
    spare_.push_back({std::move(begin), std::move(end)});
  }
  Ticket ticket{std::move(call), stream, std::move(spare_.back()), std::nullopt};
  spare_.pop_back();
  stream.Record(ticket.events.begin.view());
  return ticket;
}

void CallTracker::End(Ticket ticket) {
  std::lock_guard lock(mutex_);
  ticket.stream.Record(ticket.events.end.view());
  pending_.push_back(std::move(ticket));
}

absl::Status CallTracker::Poll(Clock::time_point now) {
  std::lock_guard lock(mutex_);
  while (!pending_.empty()) {
    Ticket& oldest = pending_.front();
    if (!oldest.started) {
      ASSIGN_OR_RETURN(const bool started, reached_(oldest.events.begin.view()));
      if (!started) return absl::OkStatus();
      oldest.started = now;
      oldest.call.log->Started(oldest.call.id);
    }
    ASSIGN_OR_RETURN(const bool done, reached_(oldest.events.end.view()));
    if (!done) {
      if (now - *oldest.started < deadline_) return absl::OkStatus();
      return absl::DeadlineExceededError("other ranks have not joined it, or are gone");
    }
    oldest.call.log->Done(oldest.call.id, /*ok=*/true);
    spare_.push_back(std::move(oldest.events));
    pending_.pop_front();
  }
  return absl::OkStatus();
}

std::optional<CollectiveCall> CallTracker::Oldest() const {
  std::lock_guard lock(mutex_);
  if (pending_.empty()) return std::nullopt;
  return pending_.front().call;
}

void CallTracker::FailAll(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  for (const Ticket& ticket : pending_) {
    ticket.stream.Fail(status);
    ticket.call.log->Done(ticket.call.id, /*ok=*/false);
  }
  // Events of work that may still run are not recorded again.
  pending_.clear();
}

}  // namespace muster::parallel
