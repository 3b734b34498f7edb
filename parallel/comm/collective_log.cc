#include "parallel/comm/collective_log.h"

#include <cstdio>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/device/span.h"

namespace muster::parallel {
namespace {

bool IsPending(const CollectiveEntry& entry) {
  return entry.state == CollectiveEntry::State::kEnqueued ||
         entry.state == CollectiveEntry::State::kStarted;
}

std::string SecondsSince(int64_t then_ns, int64_t now_ns) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3f s", static_cast<double>(now_ns - then_ns) * 1e-9);
  return text;
}

std::string Describe(const CollectiveEntry& entry, int64_t now_ns) {
  std::string text = std::string(Name(entry.kind)) + " #" + std::to_string(entry.sequence) +
                     " of group " + entry.group + ", " + std::to_string(entry.bytes) +
                     " bytes, from " + entry.site + ": ";
  switch (entry.state) {
    case CollectiveEntry::State::kEnqueued:
      return text + "enqueued " + SecondsSince(entry.enqueued_ns, now_ns) + " ago, not started";
    case CollectiveEntry::State::kStarted:
      return text + "started " + SecondsSince(entry.started_ns, now_ns) + " ago, not done";
    case CollectiveEntry::State::kDone:
      return text + "done " + SecondsSince(entry.done_ns, now_ns) + " ago";
    case CollectiveEntry::State::kFailed:
      return text + "failed " + SecondsSince(entry.done_ns, now_ns) + " ago";
  }
  return text;
}

}  // namespace

const char* Name(CollectiveKind kind) {
  static constexpr const char* kNames[] = {"all_reduce", "reduce_scatter", "all_gather",
                                           "all_to_all", "shift",          "send",
                                           "receive",    "broadcast",      "barrier"};
  return kNames[static_cast<int>(kind)];
}

CollectiveLog::CollectiveLog(int capacity) : ring_(static_cast<size_t>(capacity)) {
  MUSTER_CHECK(capacity > 0);
}

void CollectiveLog::AddGroup(CollectiveGroup group) {
  std::lock_guard lock(mutex_);
  groups_.push_back(std::move(group));
}

std::vector<CollectiveGroup> CollectiveLog::Groups() const {
  std::lock_guard lock(mutex_);
  return groups_;
}

CollectivePlace CollectiveLog::place() const {
  std::lock_guard lock(mutex_);
  return place_;
}

void CollectiveLog::SetPlace(const CollectivePlace& place) {
  std::lock_guard lock(mutex_);
  if (place.step >= 0) place_.step = place.step;
  if (place.microbatch >= 0) place_.microbatch = place.microbatch;
  if (place.layer >= 0) place_.layer = place.layer;
  if (place.bucket >= 0) place_.bucket = place.bucket;
}

CollectiveLog::At::~At() {
  std::lock_guard lock(log_.mutex_);
  log_.place_ = before_;
}

void CollectiveLog::SkipNextCall(std::string group) {
  std::lock_guard lock(mutex_);
  skip_group_ = std::move(group);
  skips_ = true;
}

bool CollectiveLog::TakeSkip(const std::string& group) {
  if (!skips_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  if (!skip_group_.empty() && skip_group_ != group) return false;
  return skips_.exchange(false);
}

uint64_t CollectiveLog::Enqueued(const std::string& group, uint64_t sequence, CollectiveKind kind,
                                 int64_t bytes, std::string site, int peer) {
  const int64_t now_ns = kernels::MonotonicNs();
  std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  uint64_t pair_sequence = 0;
  if (kind == CollectiveKind::kSend) pair_sequence = sent_[{group, peer}]++;
  if (kind == CollectiveKind::kReceive) pair_sequence = received_[{group, peer}]++;
  CollectiveEntry& entry = ring_[id % ring_.size()];
  entry = {.id = id,
           .group = group,
           .sequence = sequence,
           .kind = kind,
           .bytes = bytes,
           .site = std::move(site),
           .place = place_,
           .peer = peer,
           .pair_sequence = pair_sequence,
           .state = CollectiveEntry::State::kEnqueued,
           .enqueued_ns = now_ns};
  return id;
}

void CollectiveLog::Started(uint64_t id) {
  const int64_t now_ns = kernels::MonotonicNs();
  std::lock_guard lock(mutex_);
  if (CollectiveEntry* entry = Find(id)) {
    entry->state = CollectiveEntry::State::kStarted;
    entry->started_ns = now_ns;
  }
}

void CollectiveLog::Done(uint64_t id, bool ok) {
  const int64_t now_ns = kernels::MonotonicNs();
  std::lock_guard lock(mutex_);
  if (CollectiveEntry* entry = Find(id)) {
    entry->state = ok ? CollectiveEntry::State::kDone : CollectiveEntry::State::kFailed;
    entry->done_ns = now_ns;
  }
}

std::vector<CollectiveEntry> CollectiveLog::Entries() const {
  std::lock_guard lock(mutex_);
  std::vector<CollectiveEntry> entries;
  const uint64_t oldest = next_id_ > ring_.size() ? next_id_ - ring_.size() : 0;
  for (uint64_t id = oldest; id < next_id_; ++id) entries.push_back(ring_[id % ring_.size()]);
  return entries;
}

std::string CollectiveLog::DescribePending() const {
  const std::vector<CollectiveEntry> entries = Entries();
  const int64_t now_ns = kernels::MonotonicNs();
  std::string text;
  for (const CollectiveEntry& entry : entries) {
    if (IsPending(entry)) text += "  pending: " + Describe(entry, now_ns) + "\n";
  }
  if (!text.empty()) return text;
  if (entries.empty()) return "  no collective was called\n";
  return "  nothing is pending; the last: " + Describe(entries.back(), now_ns) + "\n";
}

// The entry, unless later calls have pushed it out of the ring.
CollectiveEntry* CollectiveLog::Find(uint64_t id) {
  if (id >= next_id_) return nullptr;
  CollectiveEntry& entry = ring_[id % ring_.size()];
  return entry.id == id ? &entry : nullptr;
}

}  // namespace muster::parallel
