#include "runtime/goodput/background_sync.h"

#include <signal.h>

#include <utility>

namespace muster::runtime {

BackgroundSync::BackgroundSync(std::function<void()> sync, std::chrono::milliseconds interval)
    : sync_(std::move(sync)), interval_(interval) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

BackgroundSync::~BackgroundSync() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

void BackgroundSync::Run() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, interval_, [this] { return stop_; })) {
    if (!changed_.exchange(false, std::memory_order_acq_rel)) continue;
    lock.unlock();
    sync_();
    lock.lock();
  }
}

}  // namespace muster::runtime
