#include "parallel/comm/watchdog.h"

#include <algorithm>

namespace muster::parallel {

Watchdog::Watchdog(std::chrono::microseconds interval)
    : interval_(interval), thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::Add(Watched* watched) {
  std::lock_guard lock(mutex_);
  watched_.push_back(watched);
}

void Watchdog::Remove(Watched* watched) {
  std::lock_guard lock(mutex_);
  watched_.erase(std::remove(watched_.begin(), watched_.end(), watched), watched_.end());
}

void Watchdog::Wake() {
  if (awake_.exchange(true)) return;
  // The thread is either looking, and then holds the mutex, or asleep.
  { std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    // Cleared before looking: what comes under way meanwhile sets it again.
    awake_ = false;
    bool busy = false;
    for (Watched* watched : watched_) busy = watched->Look() || busy;
    if (busy) {
      awake_ = true;
      changed_.wait_for(lock, interval_, [this] { return stopping_; });
    } else {
      changed_.wait(lock, [this] { return stopping_ || awake_; });
    }
  }
}

}  // namespace muster::parallel
