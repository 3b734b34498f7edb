#pragma once
// Brings what a file's writer has written to the disk every few seconds, on a thread of its own: a
// disk that takes long over it holds nobody up. The thread sees no signals.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace muster::runtime {

class BackgroundSync {
 public:
  // Calls `sync` at most once in `interval`, and only if something has changed.
  BackgroundSync(std::function<void()> sync, std::chrono::milliseconds interval);
  ~BackgroundSync();  // waits for a sync that is under way
  BackgroundSync(const BackgroundSync&) = delete;
  BackgroundSync& operator=(const BackgroundSync&) = delete;

  // Something was written. Never waits.
  void Changed() { changed_.store(true, std::memory_order_release); }

 private:
  void Run();

  const std::function<void()> sync_;
  const std::chrono::milliseconds interval_;
  std::atomic<bool> changed_{false};
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace muster::runtime
