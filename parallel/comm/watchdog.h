#pragma once
// A thread that looks after what is under way on a device, since nobody else is awake there: calls
// are enqueued and the host goes on. It sleeps while nothing is under way. One per World; it must
// outlive what it watches.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace muster::parallel {

class Watchdog {
 public:
  class Watched {
   public:
    virtual ~Watched() = default;
    // Called on the watchdog's thread; must not block, nor call the watchdog. Returns whether
    // anything is under way, that is, whether to look again soon.
    virtual bool Look() = 0;
  };

  // While anything is under way, all that is watched is looked at once per `interval`.
  explicit Watchdog(std::chrono::microseconds interval = std::chrono::milliseconds(2));
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void Add(Watched* watched);
  // Once this returns, `watched` is not looked at any more.
  void Remove(Watched* watched);
  // Something is under way. Cheap while the watchdog is awake.
  void Wake();

 private:
  void Run();

  const std::chrono::microseconds interval_;
  std::atomic<bool> awake_{false};
  std::mutex mutex_;  // held while looking
  std::condition_variable changed_;
  std::vector<Watched*> watched_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace muster::parallel
